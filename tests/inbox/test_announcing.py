"""A process that only receives tells those that book, and never waits for it."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.db import create_engine
from app.errors import DatabaseUnavailable
from app.inbox import announcing
from app.inbox.announcing import CHANNEL, Announcer
from app.listener import Listener


async def _until(told: list[str], number: int) -> None:
    async with asyncio.timeout(20):
        while len(told) < number:
            await asyncio.sleep(0.01)


async def test_commits_are_told_those_of_a_moment_once(engine: AsyncEngine, fresh_url: URL) -> None:
    told: list[str] = []
    listening = asyncio.Event()
    listener = Listener(fresh_url, {CHANNEL: told.append}, on_gap=listening.set)
    await listener.start()
    await asyncio.wait_for(listening.wait(), 20)
    announcer = Announcer(engine)
    began = time.monotonic()
    for _ in range(50):
        announcer.announce()
        await asyncio.sleep(0)
    await _until(told, 1)
    took = time.monotonic() - began
    assert len(told) <= 2 + took / announcing.PAUSE
    before = len(told)
    await asyncio.sleep(3 * announcing.PAUSE)
    announcer.announce()
    await _until(told, before + 1)
    await announcer.stop()
    await listener.stop()


async def test_a_database_that_is_away_stops_nothing(
    fresh_url: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    @asynccontextmanager
    async def away(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
        asked.append(True)
        if asked:
            raise DatabaseUnavailable
        yield engine.connect()

    monkeypatch.setattr(announcing, "transaction", away)
    engine = create_engine(fresh_url, pool_size=1)
    announcer = Announcer(engine)
    for number in range(1, 4):
        announcer.announce()
        async with asyncio.timeout(20):
            while len(asked) < number:
                await asyncio.sleep(0)
        await asyncio.sleep(0)
    await announcer.stop()
    await engine.dispose()
