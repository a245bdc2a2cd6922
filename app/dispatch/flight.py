"""How many calls may be in flight at once, in this process."""

import asyncio
import time
from collections import deque
from collections.abc import Callable


class Flight:
    """A bound that is halved when Stripe says that too many calls are in flight, and grows back by
    one with each round of successes. `monotonic`: for tests."""

    def __init__(self, most: int, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._allowed = most
        self._monotonic = monotonic
        self._flying = 0
        self._successes = 0
        self._halved_at = 0.0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def allowed(self) -> int:
        """How many may be in flight now."""
        return self._allowed

    async def enter(self) -> None:
        """Wait for a place, first come, first served. One that is cancelled takes none."""
        if self._flying < self._allowed and not self._waiting:
            self._flying += 1
            return
        place = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            await place
        except asyncio.CancelledError:
            if not place.cancelled():  # given just before the cancellation
                self.leave()
            raise

    def leave(self) -> None:
        """Give a place back."""
        self._flying -= 1
        self._admit()

    def succeeded(self) -> None:
        """Stripe took a call."""
        if self._allowed == self._most:
            return
        self._successes += 1
        if self._successes >= self._allowed:
            self._successes = 0
            self._allowed += 1
            self._admit()

    def halve(self, *, age: float) -> None:
        """Stripe refused a call that left `age` seconds ago. Of those that were in flight with it
        only the first halves the bound."""
        now = self._monotonic()
        if now - age <= self._halved_at:
            return
        self._halved_at = now
        self._allowed = max(min(self._allowed, self._flying) // 2, 1)
        self._successes = 0

    def _admit(self) -> None:
        while self._waiting and self._flying < self._allowed:
            place = self._waiting.popleft()
            if not place.done():
                self._flying += 1
                place.set_result(None)
