"""A token bucket: the pace at which requests may start.

A cap on what is in flight is no rate limit: 25 in flight at 10 ms each start 2,500 a second.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable

# Sums of binary fractions miss whole numbers by about this much; without it the last waiter would
# sleep for intervals too short to move the clock.
_ROUNDING = 1e-9


class TokenBucket:
    """At most `rate * t + burst` grants in any span of t seconds, in the order of asking.

    `monotonic` and `sleep` can be replaced, in tests. One bucket belongs to one event loop.
    """

    def __init__(
        self,
        rate: float,
        burst: int,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        if not (math.isfinite(rate) and rate > 0):
            raise ValueError("rate must be a positive number of grants per second")
        if type(burst) is not int or burst < 1:
            raise ValueError("burst must be a whole number of at least 1")
        self._rate = rate
        self._burst = burst
        self._monotonic = monotonic
        self._sleep = sleep
        self._tokens = float(burst)
        self._filled_at = monotonic()
        # asyncio.Lock wakes its waiters first come, first served; only its holder sleeps.
        self._turn = asyncio.Lock()

    async def acquire(self) -> None:
        """Wait for the next grant. A cancelled waiter takes none."""
        async with self._turn:
            while (wait := self._seconds_to_grant()) > 0:
                await self._sleep(wait)
            self._tokens = max(self._tokens - 1, 0.0)

    def pause(self, seconds: float) -> None:
        """Grant nothing for `seconds` (a Retry-After), nor a burst afterwards.

        The pause of a sleeping waiter is extended too; a shorter pause never shortens a longer one.
        """
        if not (math.isfinite(seconds) and seconds >= 0):
            raise ValueError("a pause must be a number of seconds of at least 0")
        self._refill()
        self._tokens = 0.0
        self._filled_at = max(self._filled_at, self._monotonic() + seconds)

    def _seconds_to_grant(self) -> float:
        now = self._refill()
        if self._tokens >= 1 - _ROUNDING:
            return 0.0
        return max(self._filled_at - now, 0.0) + (1 - self._tokens) / self._rate

    def _refill(self) -> float:
        now = self._monotonic()
        # After a pause `_filled_at` lies ahead: until then nothing flows.
        if now > self._filled_at:
            grown = self._tokens + (now - self._filled_at) * self._rate
            self._tokens = min(grown, float(self._burst))
            self._filled_at = now
        return now
