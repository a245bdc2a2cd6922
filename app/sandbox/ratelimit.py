"""Calls per second, in a window that slides: never more than the limit in any one second.

Measured on the machine's monotonic clock and not on the sandbox's, which tests let stand still.
"""

import time
from collections import deque
from collections.abc import Callable

from app.sandbox.errors import StripeError, rate_limited

_WINDOW = 1.0


class RateLimiter:
    """Admits calls by operation (one operation is one endpoint, whatever the id) and in all.

    A refused call does not count against the limit.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._by_endpoint: dict[str, deque[float]] = {}
        self._all: deque[float] = deque()

    def refusal(self, endpoint: str, *, limit: int, global_limit: int) -> StripeError | None:
        """The 429 for a call over a limit (0 is no limit), or None for an admitted call."""
        if not limit and not global_limit:
            return None
        now = self._monotonic()
        calls = self._by_endpoint.setdefault(endpoint, deque())
        if limit and _full(calls, limit, now):
            return rate_limited("endpoint-rate")
        if global_limit and _full(self._all, global_limit, now):
            return rate_limited("global-rate")
        if limit:
            calls.append(now)
        if global_limit:
            self._all.append(now)
        return None


def _full(calls: deque[float], limit: int, now: float) -> bool:
    while calls and calls[0] <= now - _WINDOW:
        calls.popleft()
    return len(calls) >= limit
