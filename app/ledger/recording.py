"""Recording: windows with a target -> the usage records of their item periods, in the database.

Places are found without a lock, then periods, lanes and records are locked in this order and
rewritten.
"""

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction

from sqlalchemy.ext.asyncio import AsyncConnection

from app.ledger import periods as period_store
from app.ledger import records as store
from app.ledger.foremost import foremost_on
from app.ledger.new_records import NewRecord, PlaceMoved, empty_record, insert_records
from app.ledger.periods import ItemPeriod, PeriodKey
from app.ledger.placing import Placed, Rewritten, Standing
from app.ledger.quantity import round_total
from app.ledger.records import RecordKey, RecordPlace, UsageRecord
from app.ledger.rewriting import rewrite_locked
from app.ledger.windows import PendingWindow, SettledWindow, parked_beside
from app.mapping.aggregation import NEEDED
from app.mapping.models import Combination
from app.mapping.reasons import ParkReason
from app.mapping.resolution import Target, WindowSource
from app.mapping.standing import MOVING

# Under `max` the windows of a record are not told apart by their ends.
_NO_TIME = datetime.min.replace(tzinfo=UTC)


async def record(
    connection: AsyncConnection,
    targets: Sequence[tuple[PendingWindow, Target]],
    standing: Sequence[PendingWindow],
    *,
    now: datetime,
    linger: timedelta,
    gone: Collection[int] = (),
) -> list[SettledWindow]:
    """Book windows on their records and write these. Raises PlaceMoved.

    A window in `standing` stays on its record, and is scaled as it was when it was booked there;
    but for those that are `gone` (by id): these count no more.
    """
    if not targets and not standing:
        return []
    wanted = {RecordKey(t.subscription_item, t.timestamp): t for _, t in targets}
    ids = {w.usage_record_id for w in standing if w.usage_record_id is not None}
    existing = await store.places(connection, ids, list(wanted))
    by_key = {place.key: place for place in existing}
    by_id = {place.id: place for place in existing}
    new = {key: target for key, target in wanted.items() if key not in by_key}
    homes = {place.item_period_id for place in existing}
    periods, locked = await period_store.lock_all_periods(connection, homes, new.values(), now=now)
    placed = [
        Placed(
            window,
            key := RecordKey(target.subscription_item, target.timestamp),
            by_key[key].item_period_id
            if key in by_key
            else periods[PeriodKey(target.subscription_item, target.period_start)],
            target.scale,
        )
        for window, target in targets
    ]
    placed += [_standing(window, by_id, gone) for window in standing]
    subscriptions = {t.subscription for t in wanted.values()}
    subscriptions |= {place.subscription for place in existing}
    for p, (_, target) in zip(placed, targets, strict=False):  # standing ones come after
        locked[p.item_period_id] = _as_booked_now(locked[p.item_period_id], target)
    locked, placed, refused = _refuse_misfits(locked, placed)
    newest = {p.key: p.window.svix_id for p in placed}
    await store.lock_lanes(connection, subscriptions, due_at=now + linger)
    missing = [
        NewRecord(
            key,
            target.subscription,
            periods[PeriodKey(key.subscription_item, target.period_start)],
            newest[key],
            target.increment,
        )
        for key, target in new.items()
        if key in newest
    ]
    by_period: dict[int, list[Placed]] = defaultdict(list)
    for p in placed:
        by_period[p.item_period_id].append(p)
    # What was not there a moment ago is made; if another one was quicker, all is repeated.
    there = await store.lock_records(connection, newest) if existing else []
    record_ids, rewritten = await _rewrite(
        connection, locked, by_period, there, missing, now, linger
    )
    await period_store.write_periods(connection, [r.period for r in rewritten], now=now)
    slipped = {window.id: target.slipped for window, target in targets}
    return refused + [
        SettledWindow(
            p.window.id,
            # What is to leave, and was only changed by another window, leaves in its turn.
            "pending" if p.window.leaving else "booked",
            MOVING if p.window.leaving else None,
            usage_record_id=record_ids[p.key],
            amount=p.amount,
            scale=p.scale,
            slipped=slipped.get(p.window.id),
            moving_from=p.window.moving_from if p.window.leaving else None,
        )
        for p in placed
    ]


def _as_booked_now(period: ItemPeriod, target: Target) -> ItemPeriod:
    """The late policy is that of what is booked last; what is closed stays closed.

    The rounding is that of what is booked first: a carry may have made the period before that.
    """
    untouched = period.combination is Combination.SUM and not (period.exact or period.rounded)
    rounding = target.rounding if untouched else period.rounding
    closed_until = period_store.latest(period.closed_until, target.closed_until)
    now = (target.late_policy, closed_until, rounding)
    if now == (period.late_policy, period.closed_until, period.rounding):
        return period  # as for nearly every window: a copy of each took a tenth of all the time
    return replace(
        period, late_policy=target.late_policy, closed_until=closed_until, rounding=rounding
    )


def _refuse_misfits(
    locked: Mapping[int, ItemPeriod], placed: Iterable[Placed]
) -> tuple[dict[int, ItemPeriod], list[Placed], list[SettledWindow]]:
    """Take out what cannot stand beside what the item's period already holds.

    Nothing is booked where windows were deleted: what counts there already cannot be told.
    Under `latest`, and for a whole period's value, an item takes one series only: of two, neither
    is the newest or the whole. And a revision may tell another aggregation than what was booked.
    """
    periods = dict(locked)
    fitting: list[Placed] = []
    refused: list[SettledWindow] = []
    for p in sorted(placed, key=lambda p: p.window.id):
        period = periods[p.item_period_id]
        facts = p.window.facts
        whole = facts.source is WindowSource.PERIOD
        if period.pruned:
            refused.append(
                parked_beside(
                    p.window,
                    ParkReason.OLDER_THAN_RETENTION,
                    "the windows of its billing period were deleted",
                )
            )
            continue
        if p.gone:
            fitting.append(p)
            continue
        if not whole and NEEDED.get(facts.aggregation) is not period.combination:
            refused.append(
                parked_beside(
                    p.window,
                    ParkReason.AGGREGATION_MISMATCH,
                    f"aggregation {facts.aggregation}, booked under {period.combination.value}",
                )
            )
            continue
        if whole or period.combination is Combination.LATEST:
            series = _series(p.window)
            if period.series not in (None, series):
                refused.append(
                    parked_beside(
                        p.window,
                        ParkReason.NOT_ACROSS_GROUPS,
                        "another meter, subject or group is billed on the item in this period",
                    )
                )
                continue
            periods[p.item_period_id] = replace(period, series=series)
        fitting.append(p)
    return periods, fitting, refused


def _series(window: PendingWindow) -> bytes:
    """A digest of what makes a series: meter, subject and group."""
    facts = window.facts
    parts = (facts.meter.encode(), facts.subject.encode(), window.group_key)
    return hashlib.sha256(b"\0".join(parts)).digest()[:16]


async def _rewrite(
    connection: AsyncConnection,
    locked: Mapping[int, ItemPeriod],
    by_period: Mapping[int, list[Placed]],
    there: Sequence[UsageRecord],
    missing: Iterable[NewRecord],
    now: datetime,
    linger: timedelta,
) -> tuple[dict[RecordKey, int], list[Rewritten]]:
    """Compute what must stand on locked and on new records, and write it. Raises PlaceMoved."""
    # One that was missing may have been made since its place was looked for.
    known = {found.key for found in there}
    new = [record for record in missing if record.key not in known]
    empty = {record.key: empty_record(record) for record in new}
    records: dict[int, dict[RecordKey, UsageRecord]] = defaultdict(dict)
    for found in [*there, *empty.values()]:
        records[found.item_period_id][found.key] = found
    if any(p.key not in records[p.item_period_id] for on in by_period.values() for p in on):
        raise PlaceMoved
    beside = await _beside(connection, locked, by_period, there)
    rewritten = []
    for period_id, placed in by_period.items():
        result, _ = await rewrite_locked(
            connection,
            locked[period_id],
            records[period_id].values(),
            placed,
            now=now,
            linger=linger,
            beside=beside.get(period_id, ()),
        )
        rewritten.append(result)
    changed = {record.key: record for result in rewritten for record in result.records}
    written = [(record, changed.pop(record.key, empty[record.key])) for record in new]
    made = await insert_records(connection, written)
    if changed:
        await store.write_records(connection, list(changed.values()))
    return {found.key: found.id for found in there} | made, rewritten


async def _beside(
    connection: AsyncConnection,
    locked: Mapping[int, ItemPeriod],
    by_period: Mapping[int, Sequence[Placed]],
    records: Sequence[UsageRecord],
) -> dict[int, list[Standing]]:
    """What counts on the records whose quantity is no part of a total, but for what is in hand."""
    found: dict[int, list[Standing]] = defaultdict(list)
    asked: dict[Combination, dict[int, UsageRecord]] = defaultdict(dict)
    in_hand: dict[RecordKey, list[Placed]] = defaultdict(list)
    for placed in by_period.values():
        for p in placed:
            in_hand[p.key].append(p)
    for record in records:
        period = locked[record.item_period_id]
        if period.combination is Combination.SUM:
            continue
        placed_here = in_hand[record.key]
        if period.combination is Combination.LATEST or _may_fall(record, placed_here, period):
            asked[period.combination][record.id] = record
        else:
            found[record.item_period_id].append(
                Standing(0, record.key.timestamp, _NO_TIME, Fraction(record.booked))
            )
    for combination, by_id in asked.items():
        without = [p.window.id for record in by_id.values() for p in in_hand[record.key]]
        for window in await foremost_on(connection, by_id, combination, without=without):
            record = by_id[window.usage_record_id]
            found[record.item_period_id].append(
                Standing(window.id, record.key.timestamp, window.window_end, window.amount)
            )
    return found


def _may_fall(record: UsageRecord, in_hand: Sequence[Placed], period: ItemPeriod) -> bool:
    """Whether a maximum may come down to what its other windows say: else it is what it is.

    So a period of many windows is not looked through for each of them.
    """

    def reaches(amount: Fraction) -> bool:
        return round_total(amount, period.rounding) >= record.booked

    holders = [p for p in in_hand if p.window.usage_record_id == record.id]
    return any(reaches(p.window.amount) for p in holders) and not any(
        reaches(p.amount) for p in in_hand if not p.gone
    )


def _standing(
    window: PendingWindow, by_id: Mapping[int, RecordPlace], gone: Collection[int]
) -> Placed:
    assert window.usage_record_id is not None  # noqa: S101 - the caller chose such windows
    assert window.scale is not None  # noqa: S101 - written with the record
    place = by_id[window.usage_record_id]
    return Placed(window, place.key, place.item_period_id, window.scale, gone=window.id in gone)
