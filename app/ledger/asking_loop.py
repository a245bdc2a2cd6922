"""The asking loop: asks OpenMeter what windows do not tell, and flushes before periods end.

The two run beside each other: an OpenMeter that hangs over fifty questions must not keep a flush
that has its minute.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from app.db import DATABASE_PAUSE
from app.errors import DatabaseUnavailable
from app.ledger.flushing import Flusher
from app.ledger.querying import Querier

logger = logging.getLogger(__name__)

IDLE_POLL = 1.0


class AskingLoop:
    """Runs a querier and, where there is one, a flusher until it is stopped."""

    def __init__(
        self, querier: Querier, flusher: Flusher | None, *, on_answered: Callable[[], None]
    ) -> None:
        self._rounds: list[Callable[[], Awaitable[int]]] = [querier.ask]
        if flusher is not None:
            self._rounds.append(flusher.flush)
        self._on_answered = on_answered
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Return from `run`. A question that is under way is given up: it is asked again."""
        self._stopping.set()

    async def run(self) -> None:
        """Ask until stopped. Ends by the first error that nobody foresaw."""
        asking = [asyncio.create_task(self._repeat(round_)) for round_ in self._rounds]
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            done, _ = await asyncio.wait([*asking, stopping], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (*asking, stopping):
                task.cancel()
            await asyncio.gather(*asking, stopping, return_exceptions=True)
        for task in done:
            task.result()

    async def _repeat(self, round_: Callable[[], Awaitable[int]]) -> None:
        while True:
            pause = IDLE_POLL
            try:
                if await round_():
                    self._on_answered()
                    pause = 0.0
            except DatabaseUnavailable:
                logger.warning("the database is not available; nothing is asked")
                pause = DATABASE_PAUSE
            await asyncio.sleep(pause)
