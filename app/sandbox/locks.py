"""One write at a time per subscription."""

from collections.abc import Iterator
from contextlib import contextmanager

from app.sandbox.errors import lock_timeout


class Locks:
    """Who is being written to. Stripe waits a while for a lock; the sandbox refuses at once."""

    def __init__(self) -> None:
        self._held: set[str] = set()

    @contextmanager
    def held(self, name: str | None) -> Iterator[None]:
        """Hold a lock (none for None). Raises StripeError (429) when another write holds it."""
        if name is None:
            yield
            return
        if name in self._held:
            raise lock_timeout()
        self._held.add(name)
        try:
            yield
        finally:
            self._held.discard(name)
