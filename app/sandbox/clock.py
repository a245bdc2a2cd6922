"""The sandbox's clock: real time with an offset, or standing still."""

import time
from collections.abc import Callable


class SandboxClock:
    """Tells the sandbox's time in whole Unix seconds. Starts at real time and runs with it."""

    def __init__(self, source: Callable[[], float] = time.time) -> None:
        self._source = source
        self._offset = 0.0
        self._frozen_at: int | None = None

    @property
    def frozen(self) -> bool:
        """Whether the clock stands still."""
        return self._frozen_at is not None

    def now(self) -> int:
        """Unix seconds."""
        if self._frozen_at is not None:
            return self._frozen_at
        return int(self._source() + self._offset)

    def set(self, at: int, *, frozen: bool = False) -> None:
        """Jump to `at` (Unix seconds), and run on from there unless `frozen`."""
        self._frozen_at = at if frozen else None
        self._offset = at - self._source()

    def advance(self, seconds: int) -> None:
        """Move by `seconds`; a frozen clock stays frozen at the new time."""
        if self._frozen_at is None:
            self._offset += seconds
        else:
            self._frozen_at += seconds

    def reset(self) -> None:
        """Back to real time."""
        self._offset = 0.0
        self._frozen_at = None
