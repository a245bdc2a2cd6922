"""LISTEN: what other processes notify, and what happens when the connection is lost."""

import asyncio
from collections.abc import Callable
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from app import listener as module
from app.db import transaction
from app.listener import Listener


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(15):
        while not condition():
            await asyncio.sleep(0.01)


async def _notify(engine: AsyncEngine, payload: str) -> None:
    async with transaction(engine) as connection:
        await connection.execute(text("select pg_notify('news', :payload)"), {"payload": payload})


async def test_a_notification_arrives_once_it_is_committed(
    engine: AsyncEngine, fresh_url: URL
) -> None:
    heard: list[str] = []
    gaps: list[int] = []
    listener = Listener(fresh_url, {"news": heard.append}, lambda: gaps.append(1))
    await listener.start()
    try:
        await _until(lambda: gaps == [1])
        async with engine.connect() as connection:
            await connection.execute(text("select pg_notify('news', 'rolled back')"))
            await connection.rollback()
        await _notify(engine, "first")
        await _until(lambda: heard == ["first"])
    finally:
        await listener.stop()


async def test_a_failover_without_a_primary_ends_no_listening(
    engine: AsyncEngine, fresh_url: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    gaps: list[int] = []
    connect, refusals = asyncpg.connect, iter([True] * 2)

    async def none_is_primary(**given: Any) -> asyncpg.Connection:
        if next(refusals, False):
            raise asyncpg.TargetServerAttributeNotMatched("none of the hosts is primary")
        return await connect(**given)

    monkeypatch.setattr(asyncpg, "connect", none_is_primary)
    monkeypatch.setattr(module, "RECONNECT_AFTER", 0.01)
    listener = Listener(fresh_url, {"news": print}, lambda: gaps.append(1))
    await listener.start()
    await _until(lambda: gaps == [1])
    await listener.stop()


async def test_a_lost_connection_comes_back_and_says_that_it_was_away(
    engine: AsyncEngine, fresh_url: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[str] = []
    gaps: list[int] = []
    listener = Listener(fresh_url, {"news": heard.append}, lambda: gaps.append(1))
    monkeypatch.setattr(module, "CHECK_EVERY", 3_600)  # not by looking: by being told
    await listener.start()
    try:
        await _until(lambda: gaps == [1])
        async with transaction(engine) as connection:
            await connection.execute(
                text(
                    "select pg_terminate_backend(pid) from pg_stat_activity "
                    "where application_name = 'meterbridge listener' "
                    "and datname = current_database()"
                )
            )
        await _until(lambda: gaps == [1, 1])
        await _notify(engine, "after")
        await _until(lambda: heard == ["after"])
    finally:
        await listener.stop()
