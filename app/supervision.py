"""Keeping the loops at work: one that ends by an error is started again, ever more slowly.

The process goes on: it also receives, and to end it over a defect in booking or sending would
refuse webhooks in a crash loop. Nothing is lost meanwhile, and readiness names the loop.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from app.waiting import set_within

logger = logging.getLogger(__name__)

PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
# A loop that has run for this long since it was started again is taken to be well.
SETTLED_AFTER = 60.0


@dataclass(frozen=True, slots=True)
class _Trouble:
    error: str
    restarted: float | None
    """When the loop was started again; None while it waits for that."""


class Supervisor:
    """Runs loops until it is stopped. `pauses` are seconds; the last one repeats."""

    def __init__(
        self,
        *,
        pauses: Sequence[float] = PAUSES,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pauses = pauses
        self._monotonic = monotonic
        self._stopping = asyncio.Event()
        self._troubles: dict[str, _Trouble] = {}

    def stop(self) -> None:
        """Start nothing again. The loops are stopped by their own means, after this."""
        self._stopping.set()

    def troubles(self) -> dict[str, str]:
        """The loops that ended by an error and have not settled since: name -> the error's type."""
        now = self._monotonic()
        return {
            name: trouble.error
            for name, trouble in self._troubles.items()
            if trouble.restarted is None or now - trouble.restarted < SETTLED_AFTER
        }

    async def run(self, name: str, loop: Callable[[], Awaitable[None]]) -> None:
        """Run a loop, again and again, until it returns because it was stopped."""
        failures = 0
        while True:
            started = self._monotonic()
            try:
                await loop()
                if self._stopping.is_set():
                    return
                raise RuntimeError(f"{name} ended without being asked to")
            except Exception as error:
                if self._monotonic() - started >= SETTLED_AFTER:
                    failures = 0
                pause = self._pauses[min(failures, len(self._pauses) - 1)]
                failures += 1
                self._troubles[name] = _Trouble(type(error).__name__, restarted=None)
                logger.critical(
                    "%s ended by an error; it starts again in %g s", name, pause, exc_info=True
                )
            # A loop that starts after the stop is stopped by nobody.
            if await set_within(self._stopping, pause):
                return
            self._troubles[name] = _Trouble(self._troubles[name].error, self._monotonic())
