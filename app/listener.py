"""LISTEN: what other processes notify. A hint that saves time, never the only way to learn.

The connection is one of its own, outside the pool, and comes back by itself after the database
was away; since notifications may have been missed then, `on_gap` is called each time it begins.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping

import asyncpg
from sqlalchemy.engine import URL

from app.database_address import driver_arguments, shares_sessions
from app.db import DRIVER_ERRORS
from app.waiting import set_within

logger = logging.getLogger(__name__)

# Well within the second after which everything is to go on once the database is back.
RECONNECT_AFTER = 0.5
# A connection that was closed is noticed at once; this finds one whose other end has vanished.
CHECK_EVERY = 10.0


class Listener:
    """Calls `handlers[channel](payload)` for each notification, on the event loop."""

    def __init__(
        self, url: URL, handlers: Mapping[str, Callable[[str], None]], on_gap: Callable[[], None]
    ) -> None:
        self._url = url
        self._handlers = handlers
        self._on_gap = on_gap
        self._task: asyncio.Task[None] | None = None
        self._away = False

    async def start(self) -> None:
        """Begin listening in the background, where there is a session that would hear anything."""
        if shares_sessions(self._url):
            logger.info("not listening to the database: a pooler by transaction notifies nobody")
            return
        self._task = asyncio.create_task(self._run(), name="listener")

    async def stop(self) -> None:
        """Stop listening."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _run(self) -> None:
        while True:
            try:
                await self._listen()
                self._tell("the connection was closed")
            except DRIVER_ERRORS as error:
                self._tell(type(error).__name__)
            await asyncio.sleep(RECONNECT_AFTER)

    def _tell(self, why: str) -> None:
        if not self._away:  # once, and not twice a second while the database is away
            logger.info("not listening to the database: %s", why)
        self._away = True

    async def _listen(self) -> None:
        connection = await asyncpg.connect(
            **driver_arguments(self._url),
            timeout=5,
            server_settings={"application_name": "meterbridge listener"},
        )
        lost = asyncio.Event()
        connection.add_termination_listener(lambda _: lost.set())
        try:
            for channel in self._handlers:
                await connection.add_listener(channel, self._notified)
            if self._away:
                logger.info("listening to the database again")
            self._away = False
            self._on_gap()
            while not await set_within(lost, CHECK_EVERY):
                await connection.execute("select 1", timeout=5)
        finally:
            with contextlib.suppress(*DRIVER_ERRORS):
                await connection.close(timeout=2)

    def _notified(self, _connection: object, _pid: int, channel: str, payload: object) -> None:
        self._handlers[channel](str(payload))
