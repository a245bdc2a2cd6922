"""Bodies on their way in, before anybody knows who sends them."""

import asyncio

# What every request may hold without asking: a thousand connections come to 64 MiB, and a usual
# webhook has a tenth of it.
_FREE_BYTES = 64 * 1024
_SHARED_BYTES = 32 * 1024 * 1024


class ArrivingBody:
    """One body while it arrives, within `deadline`."""

    def __init__(self, deadline: asyncio.Timeout) -> None:
        self._deadline = deadline
        self.dropped = False

    def drop(self) -> None:
        """Wait for it no longer: its reader gets a TimeoutError."""
        if not self._deadline.expired():
            self.dropped = True
            self._deadline.reschedule(0)


class ArrivingBodies:
    """The memory of one process for large bodies whose sender is not known yet.

    Without it a thousand connections that never finish a body would hold a mebibyte each. Counted
    is what has arrived, not what was announced: 32 forged heads would take all of it. For lack of
    room the one goes that has been large for the longest time: an honest body is there in a
    moment, and a forger can wait.
    """

    def __init__(self, limit: int = _SHARED_BYTES) -> None:
        self._left = limit
        self._sizes: dict[ArrivingBody, int] = {}
        """Bytes of the large ones, the oldest at the front."""

    def grow(self, body: ArrivingBody, size: int) -> None:
        """`size` bytes of `body` have arrived, and more are to come."""
        if size <= _FREE_BYTES:
            return
        self._left -= size - self._sizes.get(body, 0)
        self._sizes[body] = size
        while self._left < 0:
            oldest = next(iter(self._sizes))
            self.end(oldest)
            oldest.drop()

    def end(self, body: ArrivingBody) -> None:
        """`body` is there, or will never be."""
        self._left += self._sizes.pop(body, 0)
