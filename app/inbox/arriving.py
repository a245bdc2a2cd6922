"""Bodies on their way in, before anybody knows who sends them."""

import asyncio
from functools import partial

# What every request may hold without asking: a thousand connections come to 64 MiB, and a usual
# webhook has a tenth of it.
_FREE_BYTES = 64 * 1024
_SHARED_BYTES = 32 * 1024 * 1024


class ArrivingBody:
    """One body while it arrives, read by the task that makes this object.

    It does what asyncio.timeout does, for a quarter of the cost: every webhook has a deadline, and
    hardly one is late.
    """

    def __init__(self) -> None:
        reader = asyncio.current_task()
        assert reader is not None  # noqa: S101 - a body is awaited
        self._reader = reader
        self._cancelled_before = reader.cancelling()
        self._arriving = True
        self._given_up = False
        self.dropped = False
        """Whether it was given up for lack of room, and not because it was late."""

    def give_up(self, *, dropped: bool = False) -> None:
        """Wait for it no longer: its reader is cancelled. To be called by the event loop."""
        if self._arriving and not self._given_up:
            self._given_up, self.dropped = True, dropped
            self._reader.cancel()

    def end(self) -> None:
        """It is there, or will never be."""
        self._arriving = False

    def was_given_up(self) -> bool:
        """Whether a CancelledError of the reader is ours, and ours alone; it is taken back then."""
        return self._given_up and self._reader.uncancel() <= self._cancelled_before


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
            asyncio.get_running_loop().call_soon(partial(oldest.give_up, dropped=True))

    def end(self, body: ArrivingBody) -> None:
        """`body` is there, or will never be."""
        self._left += self._sizes.pop(body, 0)
