"""A PostgreSQL of the run's own, which is restarted at once, and looked into from outside."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import asyncpg

from app.db import database_url
from app.embedded import RunningServer, start
from app.migrating import migrate

# What looks in from outside waits as long as it takes for a database that is restarted.
AWAY = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError)
POLL = 0.1


class Database:
    """Starts a server in a folder; `address` is what the program's processes are told."""

    def __init__(self, folder: Path, settings: dict[str, str]) -> None:
        self._folder = folder
        self._settings = settings
        self._server: RunningServer | None = None
        self._watcher: asyncpg.Connection[asyncpg.Record] | None = None
        self._turn = asyncio.Lock()

    @property
    def server(self) -> RunningServer:
        """The running server."""
        assert self._server is not None, "start() comes first"
        return self._server

    @property
    def address(self) -> str:
        """For `DATABASE_URL`."""
        return self.server.url

    async def start(self) -> None:
        """The first start, and the schema."""
        self._server = await self._started()
        await migrate(database_url(self.address))

    async def restart_immediately(self, *, away: float) -> None:
        """An immediate shutdown (as a crash: recovery follows), `away` seconds, a start."""
        os.kill(self.server.server.pid, signal.SIGQUIT)
        # Ends what is left of it, and lets the folder go.
        await asyncio.to_thread(self.server.stop)
        await asyncio.sleep(away)
        self._server = await self._started()

    async def _started(self) -> RunningServer:
        return await asyncio.to_thread(start, self._folder, settings=self._settings)

    async def stop(self) -> None:
        """Stop it."""
        if self._watcher is not None:
            self._watcher.terminate()
        if self._server is not None:
            await asyncio.to_thread(self._server.stop)

    async def rows(self, sql: str, *values: object) -> list[Any]:
        """The rows of a query, as soon as the database answers."""
        async with self._turn:
            while True:
                try:
                    if self._watcher is None or self._watcher.is_closed():
                        plain = self.address.replace("+asyncpg", "")
                        self._watcher = await asyncpg.connect(plain, timeout=5)
                    return await self._watcher.fetch(sql, *values, timeout=60)
                except AWAY:
                    if self._watcher is not None:
                        self._watcher.terminate()
                        self._watcher = None
                    await asyncio.sleep(POLL)
