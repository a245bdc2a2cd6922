"""`postmaster.pid`: what PostgreSQL writes about itself into its data directory."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

PID = re.compile(r"[0-9]{1,30}")
"""Bounded, since Python refuses to convert thousands of digits."""

NO_PID = 2**31 - 1
"""The largest a pid field holds, and above every system's limit: never a living process."""


@dataclass(frozen=True, slots=True)
class PidFile:
    """Lines 1, 2 and 5: the postmaster's pid, its data directory and its first socket folder."""

    pid: int
    cluster: str
    socket_dir: Path

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """None when the text is cut short, as after a power failure, or no pid file at all."""
        lines = text.split("\n")
        if len(lines) < 5 or not PID.fullmatch(lines[0]) or not lines[4].startswith("/"):
            return None
        return cls(pid=int(lines[0]), cluster=lines[1], socket_dir=Path(lines[4]))


def path_in(cluster: Path) -> Path:
    return cluster / "postmaster.pid"


def read(cluster: Path) -> str | None:
    """The file's text; None when there is none. Raises OSError when it may not be read."""
    try:
        return os.fsdecode(path_in(cluster).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None


def forget_pid(cluster: Path, text: str) -> None:
    """Put a pid that nobody has in place of one that now belongs to a stranger.

    The file stays: its other lines let PostgreSQL check that no backend of the old server still
    uses the shared memory, which deleting the file would switch off.
    """
    rest = text.partition("\n")[2]
    flags = os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW
    with os.fdopen(os.open(path_in(cluster), flags), "wb") as file:
        file.write(os.fsencode(f"{NO_PID}\n{rest}"))
