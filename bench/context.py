"""What every figure is given: the database server, how thorough to be, and where to say so."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.database import Server


@dataclass(frozen=True, slots=True)
class Bench:
    """One run of the bench. `rows` is the size of the great table of the figure `volume`."""

    server: Server
    folder: Path
    quick: bool
    rows: int
    profile: bool
    say: Callable[[str], None]

    @property
    def repeats(self) -> int:
        """How often each figure is measured; the median counts."""
        return 1 if self.quick else 3

    def size(self, full: int) -> int:
        """How much of something: a quarter for a short try."""
        return max(1, full // 4) if self.quick else full

    def place(self, name: str) -> Path:
        """A folder of its own for something that is started, or for a figure's files."""
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder
