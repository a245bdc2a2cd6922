"""Bodies on their way in, before anybody knows who sends them."""

from collections.abc import Iterator
from contextlib import contextmanager

from app.errors import Overloaded

# What every request may hold without asking: a thousand connections come to 64 MiB, and a usual
# webhook has a tenth of it.
_FREE_BYTES = 64 * 1024
_SHARED_BYTES = 32 * 1024 * 1024


class ArrivingBodies:
    """The memory of one process for large bodies whose sender is not known yet.

    Without it a thousand connections that never finish a body would hold a mebibyte each.
    """

    def __init__(self, limit: int = _SHARED_BYTES) -> None:
        self._left = limit

    @contextmanager
    def reserve(self, size: int) -> Iterator[None]:
        """Room for a body of up to `size` bytes while it arrives. Raises Overloaded."""
        asked = size if size > _FREE_BYTES else 0
        if asked > self._left:
            raise Overloaded
        self._left -= asked
        try:
            yield
        finally:
            self._left += asked
