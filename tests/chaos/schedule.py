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
    *, seed: int, faults: int, seconds: float, most: Mapping[str, int] | None = None
) -> list[Planned]:
    """So many faults in so many seconds, in order; each kind at least once if there is room.

    `most` bounds kinds further than their table does.
    """
    dice = random.Random(seed)  # noqa: S311 - a run that repeats itself; nothing secret is drawn
    bounds = {name: kind.most for name, kind in KINDS.items()} | dict(most or {})
    counts = shares(KINDS.values(), faults, bounds)
    kinds = [name for name, count in counts.items() for _ in range(count)]
    dice.shuffle(kinds)
    step = seconds / max(len(kinds), 1)
    return [
        Planned((number + dice.random()) * step, kind, dice.getrandbits(32))
        for number, kind in enumerate(kinds)
    ]


def shares(kinds: Iterable[Kind], faults: int, bounds: Mapping[str, int | None]) -> dict[str, int]:
    """How many of each kind: one each, then by weight, and never more than its bound."""
    ordered = sorted(kinds, key=lambda kind: (-kind.weight, kind.name))
    counts = dict.fromkeys((kind.name for kind in ordered), 0)
    for _ in range(faults):
        open_kinds = [
            kind
            for kind in ordered
            if (bound := bounds.get(kind.name)) is None or counts[kind.name] < bound
        ]
        # The one that is furthest behind its share.
        behind = min(open_kinds, key=lambda kind: (counts[kind.name] > 0, _ahead(kind, counts)))
        counts[behind.name] += 1
    return counts


def _ahead(kind: Kind, counts: Mapping[str, int]) -> float:
    return (counts[kind.name] + 1) / kind.weight
