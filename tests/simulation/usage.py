"""What customers use: events, dense around the boundaries of billing periods.

Each event tells so many whole seconds of usage, those since the event before it, so that units in
the wrong period are seconds of usage in the wrong period. All values are whole numbers (or quarters
of them), and all sums of float64 exact.
"""

import random
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from tests.simulation.plans import DAY, HOUR, MINUTE, Kind, Plan, Sync, drawing

MICROSECONDS = 10**6
# An event is known to OpenMeter a few seconds after it happened; of a hundred one comes late.
USUAL_DELAY = 4 * MICROSECONDS
LATE = 0.01
# (seconds before a boundary, pace): the nearer, the denser.
_PACES = ((15 * MINUTE, 20), (MINUTE, 1))
_AFTER = 30


@dataclass(frozen=True, slots=True)
class Used:
    """One event. Times in microseconds; `units` as billed."""

    at: int
    arrived: int
    units: int


def draw_usage(
    plan: Plan, boundaries: Sequence[int], begin: int, end: int, *, seed: int
) -> list[Used]:
    """The events of [begin, end) in seconds, by time."""
    draw = drawing("usage", seed, plan.number)
    pace = 30 * MINUTE if plan.sync is Sync.HOURLY else 150 * MINUTE
    events: list[Used] = []
    at = begin
    while True:
        step = _step(at, boundaries, pace, draw)
        if at + step >= end:
            return events
        at += step
        moment = at * MICROSECONDS + MICROSECONDS // 2  # never on a boundary
        events.append(Used(moment, moment + _delay(draw), step * plan.units_per_second))


def value_of(plan: Plan, event: Used) -> int | float:
    """The event's value as the meter measures it; float64 holds it exactly."""
    return event.units / 4 if plan.kind is Kind.FRACTIONS else event.units


def _step(at: int, boundaries: Sequence[int], pace: int, draw: random.Random) -> int:
    number = bisect_right(boundaries, at)
    before = boundaries[number] - at if number < len(boundaries) else DAY * 1000
    after = at - boundaries[number - 1] if number else DAY * 1000
    step = draw.randint(pace // 3, pace)
    if after < _AFTER:
        return 1
    for span, dense in reversed(_PACES):
        if before <= span:
            return min(dense, before)
        step = min(step, max(before - span, 1))
    return step


def _delay(draw: random.Random) -> int:
    if draw.random() >= LATE:
        return draw.randint(MICROSECONDS, USUAL_DELAY)
    return int(draw.expovariate(1 / (3 * HOUR)) * MICROSECONDS) + USUAL_DELAY
