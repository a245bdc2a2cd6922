"""The ways to report one and the same course of events to Stripe."""

import time
from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from itertools import count

from sqlalchemy.engine import URL

from app.sandbox.endpoints.usage_records import record
from app.sandbox.errors import StripeError as Refused
from tests.openmeter_side.serving import client_of
from tests.openmeter_side.side import OpenMeterSide
from tests.simulation.bridge import Bridge, bridge
from tests.simulation.plans import Plan
from tests.simulation.schedule import Report
from tests.simulation.stripe import BilledPeriod, SimulatedStripe
from tests.simulation.world import (
    Course,
    delivery,
    mapping_file,
    moment,
    openmeter_of,
    told,
)

STEPS_UNTIL_TIDIED = 100


@dataclass(frozen=True, slots=True)
class Unbilled:
    """Units that are on no bill, and of which time they are; `why` they are not."""

    at: int
    units: int
    why: str


@dataclass(frozen=True, slots=True)
class Run:
    """What became of a course: by plan the periods and what is unbilled; and what it took."""

    periods: dict[int, list[BilledPeriod]]
    unbilled: dict[int, list[Unbilled]]
    carried: int
    windows: int
    deliveries: int
    posts: int
    reads: int
    refusals: int
    steps: int
    python_seconds: float


class Timeline:
    """Carries out what happens at Stripe up to a time, and tells when something happens next."""

    def __init__(self, course: Course, stripe: SimulatedStripe) -> None:
        self._plans = {plan.number: plan for plan in course.plans}
        self._changes = list(reversed(course.changes))
        self._stripe = stripe

    def advance(self, at: int) -> None:
        """It is so late."""
        while self._changes and self._changes[-1][0] <= at:
            when, number, which = self._changes.pop()
            self._stripe.advance(when)
            self._stripe.change(self._plans[number], which)
        self._stripe.advance(at)


async def run_bridge(course: Course, url: URL, *, grace: int, queries: bool) -> Run:
    """Through meterbridge, on an empty database; `queries`: with OpenMeter's API."""
    began = time.process_time()
    stripe = SimulatedStripe(course.plans, grace=grace)
    side = openmeter_of(course)
    client = client_of(side) if queries else None
    async with bridge(url, stripe, client) as built:
        steps, deliveries = await _drive(course, stripe, side, built)
        unbilled = await _unbilled(course, built)
        (found,) = await built.rows(
            "select (select count(*) from usage_windows) as windows,"
            " (select coalesce(sum(abs(quantity)), 0) from carries) as carried"
        )
    if client is not None:
        await client.aclose()
    return Run(
        {plan.number: stripe.periods(plan) for plan in course.plans},
        unbilled,
        int(found["carried"]),
        found["windows"],
        deliveries,
        stripe.posts,
        stripe.reads,
        stripe.refusals,
        steps,
        time.process_time() - began,
    )


async def _drive(
    course: Course, stripe: SimulatedStripe, side: OpenMeterSide, built: Bridge
) -> tuple[int, int]:
    """Step from one thing that happens to the next."""
    plans = {plan.number: plan for plan in course.plans}
    timeline = Timeline(course, stripe)
    upgrades = sorted(course.upgrades, key=lambda upgrade: -upgrade.applied)
    reports = list(reversed(course.reports))
    said: set[int] = set()
    numbers = count(1)
    await built.apply(mapping_file(course, said))
    steps = 0
    now = 0
    again: datetime | None = None
    while True:
        times = [reports[-1].taken] if reports else []
        times += [upgrades[-1].applied] if upgrades else []
        times += [] if again is None else [-int(-again.timestamp() // 1)]
        now = max(min(times, default=course.end), now)
        if now >= course.end:
            return steps, next(numbers) - 1
        steps += 1
        if steps % STEPS_UNTIL_TIDIED == 0:
            await built.tidy()
        timeline.advance(now)
        built.clock.set(moment(now))
        while upgrades and upgrades[-1].applied <= now:
            said.add(upgrades.pop().plan.number)
            await built.apply(mapping_file(course, said))
        batch = []
        while reports and reports[-1].taken <= now:
            report = reports.pop()
            plan = plans[report.number]
            value = told(side, plan, report)
            if value is not None:
                batch.append(delivery(plan, report, value, next(numbers)))
        if batch:
            await built.inbox.store(batch)
        side.now = built.clock.now
        again = await built.settle()


async def _unbilled(course: Course, built: Bridge) -> dict[int, list[Unbilled]]:
    """What is parked or held, where operators see it. A record that is owed counts below zero.

    Of parked windows that were flushed before, only what they tell more is on no bill.
    """
    numbers = {plan.subject: plan.number for plan in course.plans}
    found: dict[int, list[Unbilled]] = defaultdict(list)
    for row in await built.rows(
        """
        select w.subject, w.window_end as at, w.state, w.reason, w.source,
               w.value * case when w.meter = 'quarters' then 4 else 1 end
               - w.amount_numerator / w.amount_denominator as units
        from usage_windows w where w.state in ('parked', 'pending') and w.source <> 'flush'
        union all
        select f.subject, f.window_end, f.state, 'told by windows that are parked', f.source,
               - f.amount_numerator / f.amount_denominator
        from usage_windows f
        where f.source = 'flush' and f.usage_record_id is not null and exists (
            select 1 from usage_windows w
            where w.state in ('parked', 'pending') and w.source <> 'flush'
              and f.meter = w.meter and f.subject = w.subject
              and f.window_start < w.window_end and f.window_end > w.window_start)
        """
    ):
        why = f"{row['state']} {row['source']}: {row['reason']}"
        at = int(row["at"].timestamp()) - 1
        found[numbers[row["subject"]]].append(Unbilled(at, int(row["units"]), why))
    for row in await built.rows(
        """
        select r.subscription, r.timestamp, r.state, r.reason,
               r.wanted_quantity - r.reported_quantity as units
        from usage_records r where r.wanted_quantity <> r.reported_quantity
        """
    ):
        number = int(row["subscription"].split("_")[1])
        why = f"{row['state']} record: {row['reason']}"
        found[number].append(Unbilled(row["timestamp"], int(row["units"]), why))
    return found


def run_recipe(course: Course, *, grace: int) -> Run:
    """By OpenMeter's published recipe: `set` at the window's end, and what is refused is lost.

    Kinder than as printed: the right item is always found, and quarters are counted.
    """
    began = time.process_time()
    plans = {plan.number: plan for plan in course.plans}
    stripe = SimulatedStripe(course.plans, grace=grace)
    side = openmeter_of(course)
    timeline = Timeline(course, stripe)
    wanted: dict[tuple[int, int], int] = {}
    stands: dict[tuple[int, int], int] = {}
    posts = refusals = 0
    for report in sorted(course.reports, key=lambda report: report.arrives):
        plan = plans[report.number]
        value = told(side, plan, report)
        if value is None:
            continue
        timeline.advance(report.arrives)
        units = int(value * 4) if plan.meter == "quarters" else int(value)
        key = (plan.number, report.end)
        wanted[key] = units
        posts += 1
        if _set(stripe, plan, report, units):
            stands[key] = units
        else:
            refusals += 1
    timeline.advance(course.end)
    unbilled: dict[int, list[Unbilled]] = defaultdict(list)
    for (number, end), units in wanted.items():
        lost = units - stands.get((number, end), 0)
        if lost:
            unbilled[number].append(Unbilled(end - 1, lost, "refused"))
    return Run(
        {plan.number: stripe.periods(plan) for plan in course.plans},
        unbilled,
        0,
        len(wanted),
        posts,
        posts,
        0,
        refusals,
        posts,
        time.process_time() - began,
    )


def _set(stripe: SimulatedStripe, plan: Plan, report: Report, units: int) -> bool:
    item = stripe.current_item(plan, report.end)
    if item is None:
        return False
    try:
        record(stripe.sandbox, item, quantity=units, action="set", timestamp=report.end)
    except Refused:
        return False
    return True
