"""The arithmetic of figures: medians, percentiles, verdicts. Pure."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """What became of a target."""

    MET = "met"
    MISSED = "not met"
    PUBLISHED = "published"
    NOT_MEASURED = "not measured"


@dataclass(frozen=True, slots=True)
class Target:
    """A bound that a figure must keep."""

    bound: float
    at_least: bool

    def keeps(self, got: float) -> bool:
        """Whether a figure keeps it; what is no number keeps nothing."""
        return got >= self.bound if self.at_least else got <= self.bound


def at_least(bound: float) -> Target:
    """A figure that must not be below."""
    return Target(bound, at_least=True)


def at_most(bound: float) -> Target:
    """A figure that must not be above."""
    return Target(bound, at_least=False)


def verdict(got: float | None, target: Target | None) -> Verdict:
    """What is said of a figure; a figure without a target is published as it is."""
    if got is None:
        return Verdict.NOT_MEASURED
    if target is None:
        return Verdict.PUBLISHED
    return Verdict.MET if target.keeps(got) else Verdict.MISSED


def median(values: Sequence[float]) -> float:
    """The middle value, or the mean of the two in the middle. Raises ValueError for none."""
    if not values:
        raise ValueError("no values have no median")
    ordered = sorted(values)
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / 2


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that `share` (above 0, up to 1) of all values do not exceed.

    By nearest rank: a value that was really seen, never one between two. Raises ValueError.
    """
    if not values:
        raise ValueError("no values have no percentile")
    if not 0 < share <= 1:
        raise ValueError("a percentile is a share above 0 and up to 1")
    return sorted(values)[math.ceil(share * len(values)) - 1]


def per_second(count: float, seconds: float) -> float:
    """A rate. Raises ValueError where no time has passed."""
    if seconds <= 0:
        raise ValueError("no time has passed")
    return count / seconds


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Ours over theirs, run by run: two that ran beside each other saw the same machine."""
    if len(ours) != len(theirs):
        raise ValueError("each of our runs needs one of theirs")
    return [mine / other for mine, other in zip(ours, theirs, strict=True)]


def spread(values: Sequence[float], show: Callable[[float], str]) -> str:
    """The median with the least and the greatest, in words."""
    if len(values) == 1:
        return show(values[0])
    return f"{show(median(values))} ({show(min(values))} to {show(max(values))})"


def rounded(value: float) -> str:
    """A number as people read it: three digits that say something, thousands with a comma."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    size = math.floor(math.log10(abs(value)))
    if size >= 2:
        return f"{value:,.0f}"
    return f"{value:.{min(2 - size, 6)}f}"
