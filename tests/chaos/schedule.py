"""The seeded schedule: which fault comes when. Pure."""

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tests.chaos.kinds import KINDS, Kind


@dataclass(frozen=True, slots=True)
class Planned:
    """A fault, `at` so many seconds after the start; `seed` decides its particulars."""

    at: float
    kind: str
    seed: int


def draw_schedule(
    *, seed: int, faults: int, seconds: float, least: Mapping[str, int] | None = None
) -> list[Planned]:
    """So many faults in so many seconds, in order; each kind at least once if there is room.

    `least`: of some kinds at least so many.
    """
    dice = random.Random(seed)  # noqa: S311 - a run that repeats itself; nothing secret is drawn
    counts = shares(KINDS.values(), faults, least or {})
    kinds = [name for name, count in counts.items() for _ in range(count)]
    dice.shuffle(kinds)
    step = seconds / max(len(kinds), 1)
    return [
        Planned((number + dice.random()) * step, kind, dice.getrandbits(32))
        for number, kind in enumerate(kinds)
    ]


def shares(kinds: Iterable[Kind], faults: int, least: Mapping[str, int]) -> dict[str, int]:
    """How many of each kind: one each, then by weight, and never more than its bound."""
    ordered = sorted(kinds, key=lambda kind: (-kind.weight, kind.name))
    counts = {kind.name: least.get(kind.name, 0) for kind in ordered}
    for _ in range(faults - sum(counts.values())):
        open_kinds = [k for k in ordered if k.most is None or counts[k.name] < k.most]
        # The one that is furthest behind its share.
        behind = min(open_kinds, key=lambda kind: (counts[kind.name] > 0, _ahead(kind, counts)))
        counts[behind.name] += 1
    return counts


def _ahead(kind: Kind, counts: Mapping[str, int]) -> float:
    return (counts[kind.name] + 1) / kind.weight
