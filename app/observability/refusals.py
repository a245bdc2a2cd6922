"""Refusals in the log: the first at once, a flood of them as counts."""

import asyncio
from collections import Counter

import structlog

log = structlog.get_logger(__name__)

INTERVAL = 10.0


class RefusalLog:
    """Logs an event when it happens, and again at most once per `interval` seconds, with a count.

    A line each would be a second attack: 5,000 forged requests a second are 1 MB of log, and cost
    more than the refusals themselves. No count is lost: what came after a line is told by the next.
    """

    def __init__(self, interval: float = INTERVAL) -> None:
        self._interval = interval
        self._since: Counter[str] = Counter()
        self._quiet: set[str] = set()

    def note(self, event: str) -> None:
        """One more of `event`, a constant name. Needs a running event loop."""
        if event in self._quiet:
            self._since[event] += 1
            return
        self._say(event, 1)

    def _say(self, event: str, count: int) -> None:
        self._quiet.add(event)
        log.warning(event, count=count)
        asyncio.get_running_loop().call_later(self._interval, self._tell, event)

    def _tell(self, event: str) -> None:
        self._quiet.discard(event)
        count = self._since.pop(event, 0)
        if count:
            self._say(event, count)
