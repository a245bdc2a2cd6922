"""All that happens in a simulation, drawn before it begins: the same for every way to report it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import chain

from app.inbox.delivery import Delivery
from tests.openmeter_side.querying import Question
from tests.openmeter_side.side import OpenMeterSide
from tests.simulation.plans import DAY, START, Kind, Plan, Sync, draw_plans
from tests.simulation.schedule import Report, draw_reports, window_bounds
from tests.simulation.stripe import PRICES, SimulatedStripe, upgraded
from tests.simulation.usage import MICROSECONDS, Used, draw_usage, value_of

AFTERWARDS = 3 * DAY
"""So long nothing is used any more, and what is under way arrives."""
APPLIED_BEFORE = 600
"""So many seconds before a planned upgrade its mapping is applied, and after an unplanned one."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def moment(at: float) -> datetime:
    """Unix seconds as a time."""
    return _EPOCH + timedelta(seconds=at)


@dataclass(frozen=True, slots=True)
class Upgrade:
    """From `at` on the plan's subject is mapped to its second subscription; said at `applied`."""

    applied: int
    at: int
    plan: Plan


@dataclass(frozen=True, slots=True)
class Course:
    """What happens: `changes` at Stripe (second, plan, which), `upgrades`, `reports` by `taken`."""

    plans: list[Plan]
    boundaries: dict[int, list[int]]  # by plan: where its periods end, but for the last
    usage: dict[int, list[Used]]
    changes: list[tuple[int, int, int]]
    upgrades: list[Upgrade]
    reports: list[Report]
    end: int


def draw_course(mix: list[tuple[Kind, Sync]], *, days: int, seed: int) -> Course:
    """Everything, from one seed."""
    plans = draw_plans(mix, days=days, seed=seed)
    end = START + days * DAY
    changes = sorted((at, p.number, n) for p in plans for n, at in enumerate(p.changes))
    by_number = {plan.number: plan for plan in plans}
    stripe = SimulatedStripe(plans, grace=0)
    for at, number, which in changes:
        stripe.advance(at)
        stripe.change(by_number[number], which)
    stripe.advance(end + AFTERWARDS)
    boundaries = {}
    usage = {}
    reports: list[Iterator[Report]] = []
    for plan in plans:
        periods = stripe.periods(plan)
        boundaries[plan.number] = [p.end for p in periods]
        stops = min(end, stripe.ended_at(plan) or end)
        bounds = window_bounds(plan, START, stops)
        used = draw_usage(plan, boundaries[plan.number], bounds[0], stops, seed=seed)
        usage[plan.number] = used
        reports.append(draw_reports(plan, bounds, used, boundaries[plan.number], seed=seed))
    return Course(
        plans,
        boundaries,
        usage,
        changes,
        [_upgrade(plan) for plan in plans if plan.kind in _UPGRADES],
        sorted(chain.from_iterable(reports)),
        end + AFTERWARDS,
    )


_UPGRADES = (Kind.NEW_SUBSCRIPTION, Kind.NEW_SUBSCRIPTION_AT_ONCE)


def _upgrade(plan: Plan) -> Upgrade:
    (at,) = plan.changes
    planned = plan.kind is Kind.NEW_SUBSCRIPTION
    return Upgrade(at - APPLIED_BEFORE if planned else at + APPLIED_BEFORE, at, plan)


def openmeter_of(course: Course) -> OpenMeterSide:
    """OpenMeter, which knows every event from its arrival on."""
    side = OpenMeterSide()
    for plan in course.plans:
        side.meter(plan.meter)
    for plan in course.plans:
        for event in course.usage[plan.number]:
            side.event(
                plan.meter,
                plan.subject,
                _EPOCH + timedelta(microseconds=event.at),
                Decimal(value_of(plan, event)),
                arrived=_EPOCH + timedelta(microseconds=event.arrived),
            )
    return side


def mapping_file(course: Course, upgraded_plans: set[int]) -> str:
    """The mapping file, with those upgrades that have been said by now."""
    meters = {plan.meter for plan in course.plans}
    prices = ", ".join(PRICES)
    lines = ["meters:"]
    for meter in sorted(meters):
        scale = ", scale: 4" if meter == "quarters" else ""
        lines.append(f"  - {{meter: {meter}, price: [{prices}]{scale}}}")
    lines.append("subjects:")
    for plan in course.plans:
        entry = f"  - {{subject: {plan.subject}, subscription: "
        if plan.number in upgraded_plans:
            turn = moment(plan.changes[0]).isoformat()
            lines.append(f"{entry}{plan.subscription}, valid_to: '{turn}'}}")
            lines.append(f"{entry}{upgraded(plan)}, valid_from: '{turn}'}}")
        else:
            lines.append(f"{entry}{plan.subscription}}}")
    return "\n".join(lines)


def told(side: OpenMeterSide, plan: Plan, report: Report) -> int | float | None:
    """The window's value as OpenMeter knew it when the sync ran; None without usage."""
    start, end = moment(report.start), moment(report.end)
    asked = Question(start, end, subjects=(plan.subject,))
    side.now = lambda: moment(report.run)
    rows = side.query(plan.meter, asked)
    return rows[0].value if rows else None


def delivery(plan: Plan, report: Report, value: float, number: int) -> Delivery:
    """The webhook of a report."""
    start, end = moment(report.start).isoformat(), moment(report.end).isoformat()
    message = {
        "type": "report.meter",
        "usage": [
            {
                "subject": plan.subject,
                "value": value,
                "groupBy": {},
                "windowStart": start,
                "windowEnd": end,
            }
        ],
        "query": {"from": start, "to": end, "subject": plan.subject, "groupBy": []},
        "meter": {"slug": plan.meter, "aggregation": "SUM"},
    }
    return Delivery.of(
        f"msg_{number:08}",
        json.dumps(message).encode(),
        message_at=moment(report.run),
        received_at=moment(report.arrives),
    )


def seconds(microseconds: int) -> int:
    """Whole seconds of microseconds, rounded down."""
    return microseconds // MICROSECONDS
