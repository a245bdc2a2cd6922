"""A clock that is moved from outside, for real processes: the machine's, plus what files say.

What reads `app.clock` sees it: periods, delays, what is due. Signatures and leases do not: they go
by the time of the machine and of the database.
"""

import mmap
import struct
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

_MICROSECONDS = struct.Struct("<q")


class ClockFile:
    """An offset in a file. A write is one store of eight bytes: no reader sees half of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_bytes(_MICROSECONDS.pack(0))

    def put(self, seconds: float) -> None:
        """Clocks that read it are so many seconds ahead from now on."""
        with self.path.open("r+b") as file:
            file.write(_MICROSECONDS.pack(int(seconds * 1_000_000)))


class MovedClock:
    """The machine's clock and the sum of some files' offsets."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._offsets = []
        for path in paths:
            with path.open("rb") as file:
                self._offsets.append(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

    def now(self) -> datetime:
        """The moved time, aware, in UTC."""
        moved = sum(_MICROSECONDS.unpack_from(offset)[0] for offset in self._offsets)
        return datetime.now(UTC) + timedelta(microseconds=moved)
