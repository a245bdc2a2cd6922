"""Recording: windows with a target -> the usage records of their item periods, in the database.

Places are found without a lock, then periods, lanes and records are locked in this order and
rewritten.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from app.ledger import records as store
from app.ledger.placing import Placed, Rewritten, rewrite
from app.ledger.records import PeriodKey, RecordKey, RecordPlace
from app.ledger.windows import PendingWindow, SettledWindow
from app.mapping.resolve import Target


class PlaceMoved(Exception):
    """Another replica made the record, in another period, a moment ago: book the batch again."""


async def record(
    connection: AsyncConnection,
    targets: Sequence[tuple[PendingWindow, Target]],
    standing: Sequence[PendingWindow],
    *,
    now: datetime,
    linger: timedelta,
) -> list[SettledWindow]:
    """Book windows on their records and write these. Raises PlaceMoved.

    A window in `standing` stays on its record, and is scaled as it was when it was booked there.
    """
    if not targets and not standing:
        return []
    wanted = {RecordKey(t.subscription_item, t.timestamp): t for _, t in targets}
    ids = {w.usage_record_id for w in standing if w.usage_record_id is not None}
    existing = await store.places(connection, ids, list(wanted))
    by_key = {place.key: place for place in existing}
    by_id = {place.id: place for place in existing}
    new = {key: target for key, target in wanted.items() if key not in by_key}
    periods = await store.open_periods(connection, new.values())
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
    placed += [_standing(window, by_id) for window in standing]
    subscriptions = {t.subscription for t in wanted.values()}
    subscriptions |= {place.subscription for place in existing}
    locked = await store.lock_periods(connection, {p.item_period_id for p in placed})
    await store.lock_lanes(connection, subscriptions, due_at=now + linger)
    if new:
        newest = {p.key: p.window.svix_id for p in placed}
        await store.add_records(
            connection,
            [
                (
                    key,
                    target.subscription,
                    periods[PeriodKey(key.subscription_item, target.period_start)],
                    newest[key],
                )
                for key, target in new.items()
            ],
        )
    by_period: dict[int, list[Placed]] = defaultdict(list)
    for p in placed:
        by_period[p.item_period_id].append(p)
    record_ids, rewritten = await _rewrite(connection, locked, by_period, now, linger)
    changed = [record for r in rewritten for record in r.records]
    await store.write_periods(connection, [r.period for r in rewritten])
    if changed:
        await store.write_records(connection, changed)
    return [
        SettledWindow(
            p.window.id,
            "booked",
            usage_record_id=record_ids[p.key],
            amount=p.amount,
            scale=p.scale,
        )
        for p in placed
    ]


async def _rewrite(
    connection: AsyncConnection,
    locked: Mapping[int, store.ItemPeriod],
    by_period: Mapping[int, list[Placed]],
    now: datetime,
    linger: timedelta,
) -> tuple[dict[RecordKey, int], list[Rewritten]]:
    """Lock the records and compute what must stand on each."""
    held = await store.lock_records(
        connection, {p.key for placed in by_period.values() for p in placed}
    )
    records: dict[int, dict[RecordKey, store.UsageRecord]] = defaultdict(dict)
    for found in held:
        records[found.item_period_id][found.key] = found
    rewritten = []
    for period_id, placed in by_period.items():
        if any(p.key not in records[period_id] for p in placed):
            raise PlaceMoved
        period = locked[period_id]
        result = rewrite(period, records[period_id].values(), placed, now=now, linger=linger)
        if result.missing:
            for found in await store.lock_period_records(connection, period_id):
                records[period_id].setdefault(found.key, found)
            result = rewrite(period, records[period_id].values(), placed, now=now, linger=linger)
        rewritten.append(result)
    return {found.key: found.id for found in held}, rewritten


def _standing(window: PendingWindow, by_id: Mapping[int, RecordPlace]) -> Placed:
    assert window.usage_record_id is not None  # noqa: S101 - the caller chose such windows
    assert window.scale is not None  # noqa: S101 - written with the record
    place = by_id[window.usage_record_id]
    return Placed(window, place.key, place.item_period_id, window.scale)
