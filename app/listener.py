"""LISTEN: what other processes notify. A hint that saves time, never the only way to learn.

The connection is one of its own, outside the pool, and comes back by itself after the database
was away; since notifications may have been missed then, `on_gap` is called each time it begins.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from typing import Any

import asyncpg
from sqlalchemy.engine import URL

logger = logging.getLogger(__name__)

RECONNECT_AFTER = 1.0
CHECK_EVERY = 30.0


class Listener:
    """Calls `handlers[channel](payload)` for each notification, on the event loop."""

    def __init__(
        self, url: URL, handlers: Mapping[str, Callable[[str], None]], on_gap: Callable[[], None]
    ) -> None:
        self._url = url
        self._handlers = handlers
        self._on_gap = on_gap
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin listening in the background."""
        self._task = asyncio.create_task(self._run(), name="listener")

    async def stop(self) -> None:
        """Stop listening."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        while True:
            try:
                await self._listen()
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                logger.info("not listening to the database: %s", type(error).__name__)
            await asyncio.sleep(RECONNECT_AFTER)

    async def _listen(self) -> None:
        # As a keyword: in an address asyncpg would take `ssl` for a setting of the server.
        ssl: Any = self._url.query.get("ssl")
        address = self._url.set(drivername="postgresql").difference_update_query(["ssl"])
        connection = await asyncpg.connect(
            address.render_as_string(hide_password=False),
            ssl=ssl,
            timeout=5,
            server_settings={"application_name": "meterbridge listener"},
        )
        try:
            for channel in self._handlers:
                await connection.add_listener(channel, self._notified)
            self._on_gap()
            while True:
                await asyncio.sleep(CHECK_EVERY)
                await connection.execute("select 1", timeout=5)
        finally:
            with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                await connection.close(timeout=2)

    def _notified(self, _connection: object, _pid: int, channel: str, payload: object) -> None:
        self._handlers[channel](str(payload))
