"""Sessions that get no answer any more are ended together; a login that is slow ends none."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from app.database_login import LoginTimeout
from app.db import create_engine, transaction
from app.errors import DatabaseUnavailable
from tests.poolers import way_to


async def _run(engine: AsyncEngine, statement: str) -> None:
    async with transaction(engine) as connection:
        await connection.execute(text(statement))


@pytest.mark.parametrize("trusted_for", [0.0, math.inf])
async def test_a_session_that_the_server_ended_in_the_pool_is_not_used(
    fresh_url: URL, monkeypatch: pytest.MonkeyPatch, trusted_for: float
) -> None:
    """Whether it is asked first, or has said so by itself."""
    monkeypatch.setattr("app.database_pool.TRUSTED_FOR", trusted_for)
    engine, other = (create_engine(fresh_url, pool_size=1) for _ in range(2))
    async with transaction(engine) as connection:
        held = (await connection.get_raw_connection()).driver_connection
        pid = await connection.scalar(text("select pg_backend_pid()"))
    assert held is not None
    await _run(other, f"select pg_terminate_backend({pid}, 5000)")
    async with asyncio.timeout(10):
        while trusted_for and not held.is_closed():
            await asyncio.sleep(0.01)
    await _run(engine, "select 1")
    assert held.is_closed()
    await asyncio.gather(engine.dispose(), other.dispose())


class Failover:
    """A way to the server that can swallow what its connections say, and lets new ones through."""

    def __init__(self, url: URL) -> None:
        self._url = url
        self._generation = 0
        self._takes_logins = True
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def way(self) -> AsyncIterator[URL]:
        """The server's address, by this way."""
        async with way_to(self._url, self._connected, self._tasks) as address:
            yield address

    def happens(self) -> None:
        """The old host vanishes, and the address leads to the new one."""
        self._generation += 1

    def takes_no_logins(self) -> None:
        """New connections are taken, and what they say is not; those that stand go on."""
        self._takes_logins = False

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._takes_logins:
            self._tasks.add(asyncio.create_task(self._pump(reader, writer, -1)))
            return
        folder, port = self._url.query.get("host"), self._url.port or 5432
        there = (
            asyncio.open_unix_connection(f"{folder}/.s.PGSQL.{port}")
            if folder
            else asyncio.open_connection(self._url.host, port)
        )
        server_reader, server_writer = await there
        for source, sink in ((reader, server_writer), (server_reader, writer)):
            self._tasks.add(asyncio.create_task(self._pump(source, sink, self._generation)))

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, generation: int
    ) -> None:
        try:
            while data := await source.read(65_536):
                if generation == self._generation:
                    sink.write(data)
        finally:
            sink.close()


async def test_one_connection_that_hangs_is_enough_to_know_of_a_failover(
    fresh_url: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.db.ANSWER_TIMEOUT", 1.0)
    failover = Failover(fresh_url)
    async with failover.way() as url:
        engine = create_engine(url, pool_size=5)
        await asyncio.gather(*(_run(engine, "select pg_sleep(0.1)") for _ in range(5)))
        failover.happens()
        with pytest.raises(DatabaseUnavailable):
            await _run(engine, "select 1")
        await _run(engine, "select 1")

        async def in_the_middle() -> None:
            async with transaction(engine) as connection:
                await connection.execute(text("select 1"))
                failover.happens()
                await connection.execute(text("select 1"))

        with pytest.raises(DatabaseUnavailable):
            await in_the_middle()
        await _run(engine, "select 1")
        await engine.dispose()


async def test_a_login_that_is_slow_costs_no_session_that_works(
    fresh_url: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.db.CONNECT_TIMEOUT", 2.0)  # the first login has to get through
    failover = Failover(fresh_url)
    async with failover.way() as url:
        engine = create_engine(url, pool_size=2)
        async with transaction(engine) as connection:
            failover.takes_no_logins()
            with pytest.raises(DatabaseUnavailable) as caught:
                await _run(engine, "select 1")
            assert isinstance(caught.value.__cause__, LoginTimeout)
            assert await connection.scalar(text("select 1")) == 1
        await _run(engine, "select 1")
        await engine.dispose()
