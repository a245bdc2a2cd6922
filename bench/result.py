"""What a figure's measurement hands over to the page and to the terminal."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from bench.arithmetic import Target, Verdict, rounded, verdict
from bench.context import Bench


@dataclass(frozen=True, slots=True)
class Line:
    """One row of the table.

    `got` is the ratio (None: not measured, and `ours` says why); `ours` and `rival` are the
    absolute figures of this machine, in words.
    """

    title: str
    against: str
    target: Target | None
    got: float | None
    ours: str
    rival: str = ""

    @property
    def verdict(self) -> Verdict:
        """Whether it keeps its target."""
        return verdict(self.got, self.target)

    @property
    def asked(self) -> str:
        """The target in words."""
        if self.target is None:
            return "publish"
        return f"{'at least' if self.target.at_least else 'at most'} {self.target.bound:g}"

    @property
    def shown(self) -> str:
        """The ratio in words."""
        return "" if self.got is None else rounded(self.got)


@dataclass(frozen=True, slots=True)
class Measured:
    """A figure, measured: its rows, how it was done (paragraphs), and where the time went."""

    lines: tuple[Line, ...]
    how: str
    tables: tuple[str, ...] = ()
    profile: str | None = None
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure that can be asked for by its name."""

    name: str
    title: str
    measure: Callable[[Bench], Awaitable[Measured]]
