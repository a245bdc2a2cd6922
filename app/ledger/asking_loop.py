"""The asking loop: asks OpenMeter what windows do not tell, and flushes before periods end."""

import asyncio
import logging
from collections.abc import Callable

from app.errors import DatabaseUnavailable
from app.ledger.flushing import Flusher
from app.ledger.querying import Querier

logger = logging.getLogger(__name__)

IDLE_POLL = 1.0
DATABASE_PAUSE = 0.5


class AskingLoop:
    """Runs a querier and, where there is one, a flusher until it is stopped."""

    def __init__(
        self, querier: Querier, flusher: Flusher | None, *, on_answered: Callable[[], None]
    ) -> None:
        self._querier = querier
        self._flusher = flusher
        self._on_answered = on_answered
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Finish the round and return from `run`."""
        self._stopping.set()

    async def run(self) -> None:
        """Ask until stopped."""
        while not self._stopping.is_set():
            pause = IDLE_POLL
            try:
                answered = await self._querier.ask()
                if self._flusher is not None:
                    answered += await self._flusher.flush()
                if answered:
                    self._on_answered()
                    pause = 0.0
            except DatabaseUnavailable:
                logger.warning("the database is not available; nothing is asked")
                pause = DATABASE_PAUSE
            if pause:
                try:
                    await asyncio.wait_for(self._stopping.wait(), timeout=pause)
                except TimeoutError:
                    continue
