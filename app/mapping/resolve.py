"""Resolve: a window -> the subscription item, period and second that its usage belongs to. Pure.

Subject mapping valid at the window -> subscription snapshot -> the item whose price the meter
mapping names. Whatever does not lead to exactly one billable item is parked under its own reason.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from fractions import Fraction

from app.mapping.models import (
    MeterMapping,
    Rounding,
    SnapshotItem,
    SubjectMapping,
    SubscriptionSnapshot,
    TimestampRule,
)
from app.mapping.reasons import ParkReason

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ADDED_UP = frozenset({"SUM", "COUNT"})
ENDED = frozenset({"canceled", "incomplete_expired"})
# A period that should be open by now but is not in the snapshot: Stripe rolls periods over within
# moments, and reads are rationed.
REREAD_FOR_NEXT_PERIOD = timedelta(seconds=5)
# A period only moves forward, so an old window gains from a fresh read only where somebody has
# changed the subscription by hand.
REREAD_FOR_OLD_WINDOW = timedelta(minutes=30)
# Each look costs a read: the longer the period has been overdue, the longer the wait.
RETRY_NOT_OPEN = timedelta(seconds=15)
# Stripe's side may be mended by hand. Each look costs a read per subscription; a changed snapshot
# releases at once anyway.
RETRY_STRIPE_SIDE = timedelta(hours=6)


class WindowSource(StrEnum):
    """Where a usage window comes from: a delivery, or OpenMeter's query API."""

    WEBHOOK = "webhook"
    PART = "part"  # of a window that straddles a billing period's boundary
    FLUSH = "flush"  # provisional: what was used shortly before a billing period ends
    PERIOD = "period"  # the value of a whole billing period


@dataclass(frozen=True, slots=True)
class WindowFacts:
    """What resolving needs to know of a usage window.

    `record_at`: the Unix second of its record where that is not for the mapping's rule to say.
    """

    meter: str
    subject: str
    aggregation: str
    window_start: datetime
    window_end: datetime
    subject_contradicts: bool = False
    group_by: tuple[tuple[str, str], ...] = ()
    source: WindowSource = WindowSource.WEBHOOK
    record_at: int | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """Where a window is booked. `timestamp` in Unix seconds; the period's start is exclusive."""

    subscription: str
    subscription_item: str
    period_start: datetime
    period_end: datetime
    timestamp: int
    scale: Fraction
    rounding: Rounding


@dataclass(frozen=True, slots=True)
class Parked:
    """Why a window cannot be booked now. `retry_at`: when it is worth another look by itself."""

    reason: ParkReason
    detail: str
    retry_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class NeedsSnapshot:
    """The subscription must be read from Stripe first."""

    subscription: str


Resolution = Target | Parked | NeedsSnapshot


def record_timestamp(window_end: datetime, rule: TimestampRule) -> int:
    """The Unix second of a window's usage record: a pure function of what is stored.

    `inside` is the last whole second in the half-open window, so that a window which ends with
    the billing period stays in that period.
    """
    end = -((EPOCH - window_end) // timedelta(seconds=1))  # rounded up to a whole second
    return end - 1 if rule is TimestampRule.INSIDE else end


def message_fits(window: WindowFacts) -> Parked | None:
    """Whether the window, as its message tells it, can be billed at all; why not, if not."""
    if window.subject_contradicts:
        return Parked(ParkReason.SUBJECT_CONTRADICTS, "the row's subject is not the query's")
    if window.aggregation not in ADDED_UP:
        return Parked(
            ParkReason.AGGREGATION_UNSUPPORTED,
            f"aggregation {window.aggregation} cannot be added up from windows",
        )
    return None


def resolve(
    window: WindowFacts,
    *,
    subjects: Sequence[SubjectMapping],
    meter: MeterMapping | None,
    snapshots: Mapping[str, SubscriptionSnapshot],
    now: datetime,
    snapshot_max_age: timedelta,
    just_read: bool = False,
) -> Resolution:
    """Find the window's target, or say why there is none.

    `just_read`: the snapshot was read for this very window, so a known one is not asked for again.
    Without that a Stripe whose answers take longer than they are good for is asked for ever.
    """
    unfit = message_fits(window)
    if unfit is not None:
        return unfit
    inside = window.window_end - timedelta(seconds=1)
    valid = [mapping for mapping in subjects if mapping.covers(inside)]
    if not valid:
        return Parked(
            ParkReason.NO_SUBJECT_MAPPING,
            "the subject has no mapping" if not subjects else "no mapping is valid at that time",
        )
    if meter is None:
        return Parked(ParkReason.NO_METER_MAPPING, "the meter has no mapping")
    subscription = valid[0].subscription
    snapshot = snapshots.get(subscription)
    if snapshot is None:
        return NeedsSnapshot(subscription)
    age = timedelta(0) if just_read else now - snapshot.fetched_at
    if age > snapshot_max_age:
        return NeedsSnapshot(subscription)
    again = now + max(RETRY_STRIPE_SIDE, snapshot_max_age)
    found = billable_item(snapshot, meter, again)
    if isinstance(found, Parked):
        return found
    timestamp = record_timestamp(window.window_end, meter.timestamp_rule)
    at = datetime.fromtimestamp(timestamp, UTC)
    if at > found.period_end:
        if age > REREAD_FOR_NEXT_PERIOD:
            return NeedsSnapshot(subscription)
        return Parked(
            ParkReason.PERIOD_NOT_OPEN,
            f"{at.isoformat()} is after the current period's end {found.period_end.isoformat()}",
            max(at, now + max(RETRY_NOT_OPEN, (now - at) / 2)),
        )
    if at <= found.period_start:
        if age > REREAD_FOR_OLD_WINDOW:
            return NeedsSnapshot(subscription)
        return Parked(
            ParkReason.PERIOD_CLOSED,
            f"{at.isoformat()} is not after the current period's start "
            f"{found.period_start.isoformat()}",
        )
    return Target(
        subscription,
        found.id,
        found.period_start,
        found.period_end,
        timestamp,
        meter.scale,
        meter.rounding,
    )


def billable_item(
    snapshot: SubscriptionSnapshot, meter: MeterMapping, again: datetime
) -> SnapshotItem | Parked:
    """The one item that bills the meter. Stripe's side may be mended: look `again` then."""
    name = snapshot.subscription
    if not snapshot.found:
        return Parked(ParkReason.SUBSCRIPTION_NOT_FOUND, f"Stripe knows no {name}", again)
    if snapshot.status in ENDED:
        return Parked(ParkReason.SUBSCRIPTION_ENDED, f"{name} is {snapshot.status}", again)
    fitting = [item for item in snapshot.items if meter.price.matches(item)]
    wanted = meter.price.describe()
    if not fitting:
        return Parked(ParkReason.ITEM_NOT_FOUND, f"no item of {name} has {wanted}", again)
    if len(fitting) > 1:
        ids = ", ".join(sorted(item.id for item in fitting))
        return Parked(ParkReason.ITEM_AMBIGUOUS, f"{wanted} fits {ids} of {name}", again)
    item = fitting[0]
    if item.usage_type != "metered":
        return Parked(ParkReason.PRICE_LICENSED, f"{item.price_id} is licensed", again)
    if item.billing_meter is not None:
        return Parked(
            ParkReason.PRICE_HAS_BILLING_METER,
            f"{item.price_id} has the billing meter {item.billing_meter}",
            again,
        )
    if item.aggregate_usage != "sum":
        return Parked(
            ParkReason.AGGREGATION_MISMATCH,
            f"{item.price_id} has aggregate_usage {item.aggregate_usage}, the meter adds up",
            again,
        )
    if snapshot.billing_thresholds or item.billing_thresholds:
        return Parked(ParkReason.BILLING_THRESHOLDS, f"{name} has billing thresholds", again)
    return item
