"""What was billed in which period, beside what was used in it. Pure.

Usage is billed too late or not at all, never before it was used: so what has crossed the end of a
period is all that was used up to there, less all that was billed up to there. Of that, two things
are told apart: late events, which nobody told before the period had closed, and what is on no bill
because it is parked or held, in plain sight.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from tests.simulation.driver import Run, Unbilled
from tests.simulation.plans import UNANNOUNCED, Kind, Plan, Sync
from tests.simulation.schedule import Report
from tests.simulation.stripe import BilledPeriod
from tests.simulation.usage import MICROSECONDS, Used
from tests.simulation.world import Course


@dataclass(frozen=True, slots=True)
class Crossing:
    """What was billed after the end of its period.

    `units`: all. `late`: what OpenMeter itself knew only after the grace, or learned after it had
    reported the window and corrected after the grace. `announced`: the end of the period was known
    before.
    """

    plan: Plan
    at: int
    units: int
    late: int
    announced: bool

    @property
    def avoidable(self) -> int:
        """Units in the wrong period that were known in time; what was billed too early, too."""
        return max(self.units - self.late, 0) if self.units >= 0 else -self.units

    @property
    def avoidable_seconds(self) -> float:
        """The same in seconds of usage."""
        return self.avoidable / self.plan.units_per_second


@dataclass(frozen=True, slots=True)
class Account:
    """One customer: `lost` is below zero where something is billed twice."""

    plan: Plan
    used: int
    billed: int
    unbilled: int
    crossings: tuple[Crossing, ...]

    @property
    def lost(self) -> int:
        """Used, and neither billed nor shown anywhere."""
        return self.used - self.billed - self.unbilled


def accounts(course: Course, run: Run, *, grace: int) -> list[Account]:
    """The accounts of all customers."""
    return [
        _account(
            plan,
            course.usage[plan.number],
            run.periods[plan.number],
            run.unbilled.get(plan.number, []),
            told_at(course, plan),
            grace,
        )
        for plan in course.plans
    ]


def _account(
    plan: Plan,
    used: Sequence[Used],
    periods: Sequence[BilledPeriod],
    unbilled: Sequence[Unbilled],
    told: Sequence[int | None],
    grace: int,
) -> Account:
    billed = list(accumulate(period.billed for period in periods))
    crossings = []
    for number, period in enumerate(periods[:-1]):
        end = period.end * MICROSECONDS
        before = [event for event in used if event.at <= end]
        if not before:
            continue
        known_by = end + grace * MICROSECONDS
        crossings.append(
            Crossing(
                plan,
                period.end,
                sum(event.units for event in before)
                - billed[number]
                - sum(entry.units for entry in unbilled if entry.at <= period.end),
                sum(
                    event.units
                    for event, corrected in zip(used, told, strict=True)
                    if event.at <= end
                    and (
                        event.arrived > known_by
                        or (corrected is not None and corrected * MICROSECONDS > known_by)
                    )
                ),
                plan.kind not in UNANNOUNCED or period.end not in plan.changes,
            )
        )
    return Account(
        plan,
        sum(event.units for event in used),
        billed[-1],
        sum(entry.units for entry in unbilled),
        tuple(crossings),
    )


def told_at(course: Course, plan: Plan) -> list[int | None]:
    """For each event: when the correction that told it arrived; None where none was needed."""
    reports: dict[int, list[Report]] = defaultdict(list)
    for report in course.reports:
        if report.number == plan.number:
            reports[report.start].append(report)
    starts = sorted(reports)
    found: list[int | None] = []
    for event in course.usage[plan.number]:
        runs = reports[starts[bisect_right(starts, event.at // MICROSECONDS) - 1]]
        first = min(runs, key=lambda report: report.run)
        if event.arrived <= first.run * MICROSECONDS:
            found.append(None)
            continue
        knowing = [r.arrives for r in runs if event.arrived <= r.run * MICROSECONDS]
        found.append(min(knowing))
    return found


@dataclass(frozen=True, slots=True)
class Line:
    """A row of the table: some customers taken together."""

    name: str
    boundaries: int
    mean_seconds: float
    worst_seconds: float
    wrong_units: int
    late_units: int
    unbilled: int
    lost: int
    doubled: int


def line(name: str, of: Sequence[Account], *, announced: bool | None = None) -> Line:
    """Some accounts in one row; `announced`: only boundaries that are so."""
    crossings = [
        crossing
        for account in of
        for crossing in account.crossings
        if announced is None or crossing.announced is announced
    ]
    seconds = [crossing.avoidable_seconds for crossing in crossings]
    return Line(
        name,
        len(crossings),
        sum(seconds) / len(seconds) if seconds else 0.0,
        max(seconds, default=0.0),
        sum(crossing.avoidable for crossing in crossings),
        sum(crossing.late for crossing in crossings),
        sum(account.unbilled for account in of),
        sum(max(account.lost, 0) for account in of),
        sum(max(-account.lost, 0) for account in of),
    )


def by_kind(of: Sequence[Account]) -> list[tuple[Kind, Sync, list[Account]]]:
    """The accounts by kind and sync, in the order of the kinds."""
    return [
        (kind, sync, found)
        for kind in Kind
        for sync in Sync
        if (found := [a for a in of if a.plan.kind is kind and a.plan.sync is sync])
    ]
