"""Telling other processes that deliveries were committed, where this one books none itself."""

import asyncio
import logging

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db import text, transaction
from app.errors import DatabaseUnavailable

logger = logging.getLogger(__name__)

CHANNEL = "meterbridge_deliveries"
# PostgreSQL lets one transaction with a notification commit at a time, so the commits of deliveries
# have none, and what comes within this time is told once.
PAUSE = 0.02


class Announcer:
    """Notifies `CHANNEL` after commits. A hint only: whoever books looks by itself, too."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._task: asyncio.Task[None] | None = None
        self._more = False

    def announce(self) -> None:
        """Deliveries were committed."""
        self._more = True
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._tell(), name="announcer")

    async def stop(self) -> None:
        """Tell nobody any more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _tell(self) -> None:
        try:
            while self._more:
                self._more = False
                async with transaction(self._engine) as connection:
                    await connection.execute(
                        text("select pg_notify(:channel, '')"), {"channel": CHANNEL}
                    )
                await asyncio.sleep(PAUSE)
        except (DatabaseUnavailable, SQLAlchemyError) as error:  # as where nobody reads the queue
            logger.info("nobody is told of deliveries: %s", type(error).__name__)
