"""When OpenMeter's syncs report, and when their webhooks arrive.

An hourly run at :00 arrives 1 to 5 minutes later, a daily one 5 to 30; some come hours later. A
window with late events is reported again. Far from any boundary deliveries are gathered for some
hours, because nothing hangs on their minute there: that makes a year affordable.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

from tests.simulation.plans import HOUR, MINUTE, Plan, Sync, drawing
from tests.simulation.usage import MICROSECONDS, Used

GATHERED = (24 * HOUR, 2 * HOUR, 30 * MINUTE)
# Longer after a boundary than any grace lasts, and before one than the first flush begins, it is
# all the same when a delivery is taken in.
MARGIN = 2 * HOUR
FLUSHED_BEFORE = 20 * MINUTE
MUCH_LATER = 0.04


@dataclass(frozen=True, slots=True, order=True)
class Report:
    """One window on its way: as known at `run`, arriving at `arrives`, taken in at `taken`."""

    taken: int
    arrives: int
    run: int
    number: int  # of the plan
    start: int
    end: int


def window_bounds(plan: Plan, begin: int, end: int) -> list[int]:
    """The bounds of a customer's windows, from the first one at or after `begin` past `end`."""
    if plan.sync is Sync.HOURLY:
        return list(range(begin, end + HOUR, HOUR))
    zone = ZoneInfo(plan.zone)
    day = datetime.fromtimestamp(begin, UTC).astimezone(zone)
    midnight = day.replace(hour=0, minute=0, second=0, microsecond=0)
    if midnight < day:
        midnight = _next_day(midnight)
    bounds: list[int] = []
    while not bounds or bounds[-1] < end:
        bounds.append(int(midnight.timestamp()))
        midnight = _next_day(midnight)
    return bounds


def _next_day(midnight: datetime) -> datetime:
    # Wall-clock time: of 23 hours, or of 25, where the clocks change.
    return midnight + timedelta(days=1)


def draw_reports(
    plan: Plan,
    bounds: Sequence[int],
    events: Sequence[Used],
    boundaries: Sequence[int],
    *,
    seed: int,
) -> Iterator[Report]:
    """Every report of a customer's windows, corrections included."""
    draw = drawing("schedule", seed, plan.number)
    runs = {}
    for start, end in pairwise(bounds):
        run = end + draw.randint(20, 40)
        soon = (MINUTE, 5 * MINUTE) if plan.sync is Sync.HOURLY else (5 * MINUTE, 30 * MINUTE)
        arrives = end + draw.randint(*soon)
        if draw.random() < MUCH_LATER:
            arrives += draw.randint(10 * MINUTE, 5 * HOUR)
        runs[start] = run
        yield _report(plan, start, end, run, arrives, boundaries)
    again = set()
    for event in events:
        place = bisect_right(bounds, event.at // MICROSECONDS) - 1
        start, end = bounds[place], bounds[place + 1]
        arrived = -(-event.arrived // MICROSECONDS)
        if arrived > runs[start]:
            run = arrived + draw.randint(MINUTE, HOUR)
            run -= run % (10 * MINUTE)  # some late events share a correction
            again.add((start, end, max(run + 10 * MINUTE, runs[start] + MINUTE)))
    for start, end, run in sorted(again):
        yield _report(plan, start, end, run, run + draw.randint(10, 120), boundaries)


def _report(
    plan: Plan, start: int, end: int, run: int, arrives: int, boundaries: Sequence[int]
) -> Report:
    taken = next(
        (
            slot
            for pace in GATHERED
            if not _boundary_between(boundaries, arrives - MARGIN, slot := _next(arrives, pace))
        ),
        arrives,
    )
    return Report(taken, arrives, run, plan.number, start, end)


def _next(at: int, pace: int) -> int:
    return -(-at // pace) * pace


def _boundary_between(boundaries: Sequence[int], first: int, last: int) -> bool:
    return bisect_right(boundaries, first) < bisect_right(boundaries, last + FLUSHED_BEFORE)
