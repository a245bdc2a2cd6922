"""Resolve: a window -> the subscription item, period and second that its usage belongs to. Pure.

Subject mapping valid at the window -> subscription snapshot -> the item whose price the meter
mapping names. Whatever does not lead to exactly one billable item is parked under its own reason.

A window that came after its period was closed is `Late`: its own period is looked up among those
that are known, and `settle_late` says what becomes of it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final

from app.mapping.aggregation import NEEDED, WHOLE_PERIOD_ONLY, combination_of, misfit
from app.mapping.models import (
    Combination,
    LatePolicy,
    MeterMapping,
    RecordPer,
    SnapshotItem,
    SubjectMapping,
    SubscriptionSnapshot,
    TimestampRule,
)
from app.mapping.reasons import ParkReason
from app.mapping.resolution import (
    EPOCH,
    Booking,
    InParts,
    Late,
    NeedsSnapshot,
    Parked,
    Period,
    Place,
    Resolution,
    Rules,
    Target,
    WholePeriod,
    WindowFacts,
    WindowSource,
)
from app.mapping.spans import ended_by_the_next, paid_part
from app.mapping.splitting import matching

SECOND = timedelta(seconds=1)
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
# Stripe's grace under `sum` is "a few minutes"; after this nothing is tried at the own timestamp.
GRACE = timedelta(hours=1)
# What is carried stands at the period's first second, and a record of the whole period at its next:
# neither moves with the windows, and neither is ever in the future.
CARRY_OFFSET: Final = 1
WHOLE_PERIOD_OFFSET: Final = 2

_BUCKETS: Final = {RecordPer.HOUR: 3600, RecordPer.DAY: 86_400}


def record_timestamp(window_end: datetime, rule: TimestampRule) -> int:
    """The Unix second of a window's usage record: a pure function of what is stored.

    `inside` is the last whole second in the half-open window, so that a window which ends with
    the billing period stays in that period.
    """
    end = -((EPOCH - window_end) // SECOND)  # rounded up to a whole second
    return end - 1 if rule is TimestampRule.INSIDE else end


def message_fits(window: WindowFacts) -> Parked | None:
    """Whether the window, as its message tells it, can be billed at all; why not, if not."""
    if window.subject_contradicts:
        return Parked(ParkReason.SUBJECT_CONTRADICTS, "the row's subject is not the query's")
    return None


def resolve(
    window: WindowFacts,
    *,
    subjects: Sequence[SubjectMapping],
    meters: Sequence[MeterMapping],
    snapshots: Mapping[str, SubscriptionSnapshot],
    rules: Rules,
    now: datetime,
    just_read: bool = False,
) -> Resolution:
    """Find where the window is booked, or say why that cannot be said.

    `just_read`: the snapshot was read for this very window, so a known one is not asked for again.
    Without that a Stripe whose answers take longer than they are good for is asked for ever.
    """
    mapped = _mapped(window, subjects, meters)
    if isinstance(mapped, Parked):
        return mapped
    payer, mapping = mapped
    subscription = payer.subscription
    snapshot = snapshots.get(subscription)
    if snapshot is None:
        return NeedsSnapshot(subscription)
    age = timedelta(0) if just_read else now - snapshot.fetched_at
    if age > rules.snapshot_max_age:
        return NeedsSnapshot(subscription)
    again = now + max(RETRY_STRIPE_SIDE, rules.snapshot_max_age)
    item = billable_item(snapshot, mapping, again)
    if isinstance(item, Parked):
        return item
    place = _place(window, snapshot, item, mapping, rules, again)
    if isinstance(place, Parked):
        return place
    if asked_whole(window, mapping):
        others = (m for m in subjects if m.subscription == subscription and m != payer)
        place = replace(place, paid=(payer, *others))
    at = datetime.fromtimestamp(_own_second(window, mapping), UTC)
    if at > item.period_end:
        if age > REREAD_FOR_NEXT_PERIOD:
            return NeedsSnapshot(subscription)
        return Parked(
            ParkReason.PERIOD_NOT_OPEN,
            f"{at.isoformat()} is after the current period's end {item.period_end.isoformat()}",
            max(at, now + max(RETRY_NOT_OPEN, (now - at) / 2)),
        )
    if at <= item.period_start:
        if age > REREAD_FOR_OLD_WINDOW:
            return NeedsSnapshot(subscription)
        asked_for = window.source is WindowSource.PERIOD  # by a window that is not older
        if snapshot.started_at is not None and at <= snapshot.started_at and not asked_for:
            # No period of it was ever open then: what was free, or billed elsewhere, stays so.
            return Parked(
                ParkReason.BEFORE_SUBSCRIPTION,
                f"{at.isoformat()} is not after the start of {subscription} at "
                f"{snapshot.started_at.isoformat()}",
            )
        return Late(place, at)
    return _booking(window, place, Period(item.period_start, item.period_end), rules)


def settle_late(
    window: WindowFacts,
    late: Late,
    known: Iterable[Period],
    rules: Rules,
    now: datetime,
    *,
    flushed: bool = False,
) -> Booking:
    """What becomes of a late window; `known` are the item's periods that have something booked.

    `flushed`: its usage was booked provisionally before the period ended, so that only what the
    two differ by is late.

    Stripe has a short grace under `sum`: within it the record is tried at its own timestamp. Later,
    or where nobody knows the window's period, it is booked there as closed, to be carried forward.
    """
    item = late.place.item
    previous = []
    if item.previous_start is not None and item.previous_end is not None:
        previous.append(Period(item.previous_start, item.previous_end))
    periods = ended_by_the_next([*known, *previous], item.period_start)
    own = next((period for period in reversed(periods) if period.takes(late.at)), None)
    added_up = late.place.combination is Combination.SUM
    in_grace = added_up and own is not None and now < item.period_start + GRACE
    carried = added_up and late.place.late_policy is LatePolicy.CARRY_FORWARD
    if not (in_grace or carried or flushed):
        return Parked(
            ParkReason.PERIOD_CLOSED,
            f"{late.at.isoformat()} is not after the current period's start "
            f"{item.period_start.isoformat()}",
        )
    if own is None:
        earliest = min([item.period_start, *(period.start for period in previous)])
        own = Period(EPOCH, max(earliest, late.at))
    closed_until = None if in_grace else period_second(item.period_start)
    return _booking(window, late.place, own, rules, closed_until=closed_until)


def _mapped(
    window: WindowFacts, subjects: Sequence[SubjectMapping], meters: Sequence[MeterMapping]
) -> tuple[SubjectMapping, MeterMapping] | Parked:
    """By which mapping which subscription pays for the window, and that of its meter and group."""
    unfit = message_fits(window)
    if unfit is not None:
        return unfit
    whole = window.aggregation in WHOLE_PERIOD_ONLY and any(m.whole_period for m in meters)
    if window.aggregation not in NEEDED and not whole:
        return Parked(
            ParkReason.AGGREGATION_UNSUPPORTED,
            f"aggregation {window.aggregation} cannot be combined from windows",
        )
    inside = window.window_end - SECOND
    if window.source is WindowSource.PERIOD:  # who paid at its beginning, whatever follows
        inside = window.window_start
    valid = [mapping for mapping in subjects if mapping.covers(inside)]
    if not valid:
        return Parked(
            ParkReason.NO_SUBJECT_MAPPING,
            "the subject has no mapping" if not subjects else "no mapping is valid at that time",
        )
    if not meters:
        return Parked(ParkReason.NO_METER_MAPPING, "the meter has no mapping")
    mapping = matching(meters, dict(window.group_by))
    if mapping is None:
        return Parked(ParkReason.GROUP_UNMATCHED, "no mapping of the meter takes these groups")
    if asked_whole(window, mapping) and not mapping.group_filter and len(meters) > 1:
        return Parked(
            ParkReason.AGGREGATION_UNSUPPORTED,
            "a whole period cannot be asked for the groups that no other mapping takes",
        )
    return valid[0], mapping


def _place(
    window: WindowFacts,
    snapshot: SubscriptionSnapshot,
    item: SnapshotItem,
    mapping: MeterMapping,
    rules: Rules,
    again: datetime,
) -> Place | Parked:
    """Whether what the meter measures fits how the price combines it."""
    if asked_whole(window, mapping) and not rules.queries:
        return Parked(
            ParkReason.AGGREGATION_UNSUPPORTED,
            "a whole period must be asked from OpenMeter, and OPENMETER_API_URL is not set",
        )
    combination = combination_of(item.aggregate_usage)
    unfit = misfit(window.aggregation, item.aggregate_usage, whole_period=mapping.whole_period)
    if combination is None or unfit is not None:
        return Parked(ParkReason.AGGREGATION_MISMATCH, f"{item.price_id}: {unfit}", again)
    return Place(
        snapshot.subscription,
        item,
        mapping,
        combination,
        mapping.late_policy or rules.late_policy,
        snapshot.billing_thresholds or item.billing_thresholds,
    )


def _booking(
    window: WindowFacts,
    place: Place,
    period: Period,
    rules: Rules,
    *,
    closed_until: int | None = None,
) -> Booking:
    """Where a window is booked whose period is found."""
    mapping = place.mapping
    whole = asked_whole(window, mapping)
    slipped = None
    if (
        not whole
        and window.window_start < period.start
        and window.source is not WindowSource.PERIOD
        and window.record_at is None
    ):
        if rules.queries:
            return InParts(period.start)
        slipped = (window.window_start, period.start)
    target = Target(
        place.subscription,
        place.item.id,
        period.start,
        period.end,
        _record_second(window, period, place),
        mapping.scale,
        mapping.rounding,
        place.combination,
        place.late_policy,
        place.increment,
        closed_until,
        slipped,
    )
    if not whole:
        return target
    asked = paid_part(period, place.paid)
    return asked if isinstance(asked, Parked) else WholePeriod(asked, mapping.group_filter, target)


def _own_second(window: WindowFacts, mapping: MeterMapping) -> int:
    if window.record_at is not None:
        return window.record_at
    return record_timestamp(window.window_end, mapping.timestamp_rule)


def asked_whole(window: WindowFacts, mapping: MeterMapping) -> bool:
    """Whether the period's value is asked from OpenMeter: windows never tell it.

    What can be combined from windows is, whatever the mapping says: so a mapping that is changed
    in mid-period never counts windows beside the whole.
    """
    return mapping.whole_period and window.aggregation in WHOLE_PERIOD_ONLY


def _record_second(window: WindowFacts, period: Period, place: Place) -> int:
    """The second of the record that takes the window: its own, its bucket's or its period's."""
    start = period_second(period.start)
    if window.source is WindowSource.PERIOD or asked_whole(window, place.mapping):
        return start + WHOLE_PERIOD_OFFSET
    own = _own_second(window, place.mapping)
    if window.record_at is not None or place.combination is Combination.LATEST:
        return own  # the newest by timestamp counts, so none may stand at an older one
    if place.mapping.record_per is RecordPer.PERIOD:
        return start + WHOLE_PERIOD_OFFSET
    bucket = _BUCKETS.get(place.mapping.record_per)
    if bucket is None or not start:  # of a period not known: it might begin in another one
        return own
    return max(own - own % bucket, start + CARRY_OFFSET)


def period_second(start: datetime) -> int:
    """A period's start in Unix seconds."""
    return int((start - EPOCH) // SECOND)


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
    if not fitting:
        wanted = meter.price.describe()
        return Parked(ParkReason.ITEM_NOT_FOUND, f"no item of {name} has {wanted}", again)
    if len(fitting) > 1:
        wanted, ids = meter.price.describe(), ", ".join(sorted(item.id for item in fitting))
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
    return item
