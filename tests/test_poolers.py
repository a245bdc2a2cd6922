"""Behind a pooler: one that the address does not name is refused; one that it names is used."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from app.database_address import Pooler, database_url, driver_arguments, pooler_of
from app.database_login import LoginTimeout, next_step
from app.db import create_engine, require_head, transaction
from app.driver import fetch
from app.errors import DatabaseUnavailable, SettingsError
from app.listener import Listener
from app.migrating import migrate
from tests.poolers import StandInPooler

BY_TRANSACTION = {"pooler": "transaction"}
BY_SESSION = {"pooler": "session"}
SETTINGS = (
    "select name from pg_settings where source = 'session' "
    "and name in ('statement_timeout', 'lock_timeout')"
)
STANDING = "select name from pg_prepared_statements where name <> ''"


@asynccontextmanager
async def session_of(url: URL) -> "AsyncIterator[asyncpg.Connection[asyncpg.Record]]":
    """Another client, which knows of no pooler and keeps no statement."""
    connection = await asyncpg.connect(**driver_arguments(url), statement_cache_size=0)
    try:
        yield connection
    finally:
        await connection.close()


@pytest.mark.parametrize("mode", Pooler)
async def test_one_that_is_not_named_is_refused_before_anything_is_done(
    fresh_url: URL, mode: Pooler
) -> None:
    """In both modes: which of them it is cannot be seen."""
    async with StandInPooler(fresh_url, mode).way() as url:
        engine = create_engine(url, pool_size=1)
        with pytest.raises(SettingsError, match="does not say how it shares sessions"):
            await require_head(engine)
        with pytest.raises(DatabaseUnavailable) as caught:  # once it runs: nothing is set aside
            async with transaction(engine):
                pytest.fail("the session is used")
        assert isinstance(caught.value.__cause__, SettingsError)
        await engine.dispose()
        with pytest.raises(SettingsError, match="does not say how it shares sessions"):
            await migrate(url)
        async with session_of(url) as other:
            assert await other.fetch(STANDING) == []
            assert await other.fetch(SETTINGS) == []


async def test_one_by_session_is_used_as_postgresql_itself(fresh_url: URL) -> None:
    async with StandInPooler(fresh_url, Pooler.SESSION).way() as way:
        url = way.update_query_dict(BY_SESSION)
        await migrate(url)
        engine = create_engine(url, pool_size=2)
        await require_head(engine)
        async with transaction(engine) as connection:
            assert (await connection.execute(text(STANDING))).all()
        await engine.dispose()
        began: list[int] = []
        listener = Listener(url, {"news": lambda _: None}, lambda: began.append(1))
        await listener.start()
        async with asyncio.timeout(15):
            while not began:
                await asyncio.sleep(0.01)
        await listener.stop()


async def test_one_by_transaction_that_is_said_to_be_by_session_is_refused(fresh_url: URL) -> None:
    async with StandInPooler(fresh_url, Pooler.TRANSACTION).way() as way:
        url = way.update_query_dict(BY_SESSION)
        engine = create_engine(url, pool_size=3)
        with pytest.raises(SettingsError, match="write pooler=transaction"):
            await require_head(engine)
        await engine.dispose()
        with pytest.raises(SettingsError, match="write pooler=transaction"):
            await migrate(url)
        async with session_of(way) as other:
            assert await other.fetch(SETTINGS) == []


async def _twice_each(url: URL) -> None:
    """Both ways to send statements, by two clients at once, in transactions that take turns."""
    engines = [create_engine(url, pool_size=1) for _ in range(2)]
    try:
        for number in range(2):
            for place, engine in enumerate(engines):
                # The first statement is the driver's in one round, SQLAlchemy's in the other.
                async with transaction(engine) as connection:
                    for turn in (number, 1 - number):
                        if turn:
                            [row] = await fetch(connection, "select $1::int as n", place)
                            assert row["n"] == place
                        else:
                            asked = text(f"select cast(:n as int), {place}")
                            assert (await connection.execute(asked, {"n": 7})).one() == (7, place)
    finally:
        await asyncio.gather(*(engine.dispose() for engine in engines))


@pytest.mark.parametrize("word", [BY_TRANSACTION, {"prepared_statement_cache_size": "0"}])
async def test_clients_of_one_by_transaction_do_not_meet(
    fresh_url: URL, word: dict[str, str]
) -> None:
    async with StandInPooler(fresh_url, Pooler.TRANSACTION).way() as way:
        await _twice_each(way.update_query_dict(word))
        async with session_of(way) as other:
            assert await other.fetch(STANDING) == []


async def test_names_of_two_clients_never_meet_whatever_the_address_says(
    fresh_url: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A statement of another process is an error, and no answer: here the address is wrong."""
    async with StandInPooler(fresh_url, Pooler.TRANSACTION).way() as way:
        url = way.update_query_dict(BY_SESSION)
        engines = [create_engine(url, pool_size=1) for _ in range(2)]
        for place, engine in enumerate(engines):
            monkeypatch.setattr("asyncpg.connection._uid", 0)  # as in a process of its own
            async with transaction(engine) as connection:
                [row] = await fetch(connection, f"select {place} as n")
                assert row["n"] == await connection.scalar(text(f"select {place}")) == place
        async with session_of(way) as other:
            assert len(await other.fetch(STANDING)) >= 4
            await other.execute("deallocate all")
        with pytest.raises(DatabaseUnavailable) as caught:
            async with transaction(engines[0]) as connection:
                await fetch(connection, "select 0 as n")
        assert "pooler=transaction" in next_step(caught.value)
        await asyncio.gather(*(engine.dispose() for engine in engines))


@pytest.mark.parametrize("by_driver", [True, False])
async def test_the_first_statement_is_in_a_transaction_already(
    fresh_url: URL, by_driver: bool
) -> None:
    """Or a pooler would give the session to another client behind it."""
    pooler = StandInPooler(fresh_url, Pooler.TRANSACTION)
    async with pooler.way() as way:
        engine = create_engine(way.update_query_dict(BY_TRANSACTION), pool_size=1)
        async with transaction(engine) as connection:
            assert not pooler.held()
            if by_driver:
                await fetch(connection, "select 1")
            else:
                await connection.execute(text("select 1"))
            assert pooler.held()
        assert not pooler.held()
        await engine.dispose()


async def test_nothing_listens_behind_one_by_transaction(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    url = database_url("postgresql://u@127.0.0.1:9/d?pooler=transaction")
    listener = Listener(url, {}, lambda: None)
    await listener.start()
    await listener.stop()
    assert "a pooler by transaction notifies nobody" in caplog.text


async def test_one_that_refuses_our_settings_is_recognized(fresh_url: URL) -> None:
    pooler = StandInPooler(fresh_url, Pooler.SESSION, refuses=b"statement_timeout")
    async with pooler.way() as url:
        engine = create_engine(url, pool_size=1)
        with pytest.raises(DatabaseUnavailable) as caught:
            await require_head(engine)
        assert "ignore_startup_parameters" in next_step(caught.value)
        await engine.dispose()


class Answer(Exception):
    """An error of the driver with an SQLSTATE."""

    sqlstate = "42P05"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (DatabaseUnavailable(), "host, port, name"),
        (DBAPIError("select 1", {}, Answer()), "host, port, name"),
        (Answer(), "pooler=transaction"),
        (LoginTimeout(), "default_pool_size"),
        (TimeoutError(), "default_pool_size"),
        (SettingsError("DATABASE_URL: ..."), "as this says"),
    ],
)
def test_the_next_step(error: Exception, words: str) -> None:
    assert words in next_step(error)


@pytest.mark.parametrize(
    ("query", "pooler"),
    [
        ("", None),
        ("?pooler=session", Pooler.SESSION),
        ("?sslmode=require&pooler=transaction", Pooler.TRANSACTION),
        ("?prepared_statement_cache_size=0", Pooler.TRANSACTION),
        ("?statement_cache_size=0&pooler=transaction", Pooler.TRANSACTION),
        ("?prepared_statement_cache_size=100", None),
    ],
)
def test_which_pooler_an_address_names(query: str, pooler: Pooler | None) -> None:
    url = database_url(f"postgresql://u@h/d{query}")
    assert pooler_of(url) is pooler
    assert "pooler" not in driver_arguments(url)


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("pooler=statement", "must be session or transaction"),
        ("pooler=session&pooler=transaction", "must be session or transaction"),
        ("pooler=session&statement_cache_size=0", "exclude each other"),
    ],
)
def test_an_address_that_names_none(query: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        database_url(f"postgresql://u@h/d?{query}")
