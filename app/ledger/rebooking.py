"""Rebooking: a record whose item Stripe calls gone is resolved once more.

Plan changes delete items and make new ones. If a fresh look at Stripe shows that the item can
indeed not be billed, and nothing of the record stands there, its windows are taken off the record
and booked anew (or parked under the reason that the fresh snapshot gives). Otherwise it is held; or
late, where its billing period is over: what the item takes no more is carried to its successor.

A record that was refused because billing thresholds were set up is not gone: it goes on by
increments.

The other records of the item's period that were never sent go with it: they would be refused one
by one, at a read each, and fractions that they carry for each other would be left behind.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.clock import Clock
from app.db import text, transaction
from app.ledger import periods as period_store
from app.ledger import records as store
from app.ledger import windows as facts
from app.ledger.foremost import foremost_on
from app.ledger.periods import ItemPeriod
from app.ledger.placing import Placed, Standing
from app.ledger.records import RecordPlace, UsageRecord
from app.ledger.rewriting import rewrite_locked
from app.ledger.windows import PendingWindow, SettledWindow
from app.mapping.models import Combination, SubscriptionSnapshot
from app.mapping.moving import still_billable
from app.mapping.resolve import period_second
from app.mapping.snapshots import Snapshots

logger = logging.getLogger(__name__)

# The dispatcher's words (`app.dispatch.reasons`), which this side must not import.
OUTCOME_IN_DOUBT = "outcome_in_doubt"
PERIOD_CLOSED = "period_closed"
BILLING_THRESHOLDS = "billing_thresholds"
# A transaction stays far below the statement timeout; what is left over is refused in its turn.
RECORDS_AT_ONCE = 500
# Of a record of a whole period there may be any number of windows.
WINDOWS_AT_ONCE = 2_000
PUT_OFF = timedelta(minutes=1)


def only_increments(snapshot: SubscriptionSnapshot, subscription_item: str) -> bool:
    """Whether the snapshot shows billing thresholds over the item: Stripe refuses `set` then."""
    return snapshot.billing_thresholds or any(
        item.id == subscription_item and item.billing_thresholds for item in snapshot.items
    )


class Rebooker:
    """Resolves refused records once more."""

    def __init__(self, engine: AsyncEngine, clock: Clock, snapshots: Snapshots) -> None:
        self._engine = engine
        self._clock = clock
        self._snapshots = snapshots

    async def resolve_again(
        self, record_id: int, subscription: str, subscription_item: str, *, reason: str
    ) -> None:
        """Read the subscription anew; rebook the record's windows, or hold it for `reason`.

        Raises StripeError where the subscription cannot be read, and DatabaseUnavailable; the
        record is still due then, and comes back here.
        """
        asked_at = self._clock.now()
        snapshot = await self._snapshots.refresh(subscription)
        if snapshot.fetched_at < asked_at:  # a read that was under way before the refusal
            snapshot = await self._snapshots.refresh(subscription)
        if reason == PERIOD_CLOSED and await self._close_period(record_id, snapshot):
            return
        gone = not still_billable(snapshot, subscription_item)
        if (
            reason == BILLING_THRESHOLDS
            and not gone
            and only_increments(snapshot, subscription_item)
        ):
            async with transaction(self._engine) as connection:
                await _go_on_by_increments(connection, record_id, now=self._clock.now())
            return
        async with transaction(self._engine) as connection:
            (place,) = await store.places(connection, [record_id], [])
            unsent = await _unsent_beside(connection, place) if gone else []
            windows = await facts.lock_booked(
                connection, [record_id, *unsent], limit=WINDOWS_AT_ONCE
            )
            more = len(windows) == WINDOWS_AT_ONCE
            periods = await period_store.lock_periods(connection, [place.item_period_id])
            now = self._clock.now()
            await store.lock_lanes(connection, [subscription], due_at=now)
            records = await _lock(connection, [record_id, *unsent])
            record = records[record_id]
            if record.unsettled:
                return  # it was taken up again meanwhile, and that answer decides
            windows = [w for w in windows if _never_sent(records.get(w.usage_record_id or 0))]
            if not (gone and any(w.usage_record_id == record_id for w in windows)):
                if gone and record.carried > 0 and record.state == "due" and _never_sent(record):
                    # What was carried here has no windows to book anew: it is carried on.
                    late = record._replace(state="late", due_at=now)
                    await store.write_records(connection, [late])
                    return
                if gone and await period_store.has_ended(connection, place.item_period_id, now=now):
                    await _close(connection, periods.values(), period_second(now), now)
                    return
                await _hold(connection, record_id, OUTCOME_IN_DOUBT if record.doubtful else reason)
                return
            period = periods[place.item_period_id]
            await _take_off(connection, period, records, windows, now=now, more=more)
        while more:
            more = await self._take_off_more(place, [record_id, *unsent])

    async def _take_off_more(self, place: RecordPlace, ids: Sequence[int]) -> bool:
        """Take further windows off records of which nothing stands. Returns whether to go on."""
        async with transaction(self._engine) as connection:
            windows = await facts.lock_booked(connection, ids, limit=WINDOWS_AT_ONCE)
            periods = await period_store.lock_periods(connection, [place.item_period_id])
            now = self._clock.now()
            await store.lock_lanes(connection, [place.subscription], due_at=now)
            records = await _lock(connection, ids)
            more = len(windows) == WINDOWS_AT_ONCE
            windows = [w for w in windows if _never_sent(records.get(w.usage_record_id or 0))]
            if not windows:  # what is left was taken up meanwhile, and those answers decide
                return False
            period = periods[place.item_period_id]
            await _take_off(connection, period, records, windows, now=now, more=more)
        return more

    async def _close_period(self, record_id: int, snapshot: SubscriptionSnapshot) -> bool:
        """Close the record's item period where Stripe's own period is another by now.

        All that is due there is late, then: the carrier carries or holds it. Returns whether.
        """
        now = self._clock.now()
        async with transaction(self._engine) as connection:
            (place,) = await store.places(connection, [record_id], [])
            at = datetime.fromtimestamp(place.key.timestamp, UTC)
            current = [item for item in snapshot.items if item.id == place.key.subscription_item]
            if any(item.period_start < at for item in current):
                return False
            locked = await period_store.lock_periods(connection, [place.item_period_id])
            await store.lock_lanes(connection, [place.subscription], due_at=None)
            # Where the anchor was moved, what lies after it can still be set.
            until = min((item.period_start for item in current), default=now)
            await _close(connection, locked.values(), period_second(until), now)
        return True


async def _lock(connection: AsyncConnection, ids: Sequence[int]) -> dict[int, UsageRecord]:
    """Records by their ids, locked in the order of booking."""
    return {record.id: record for record in await store.lock_records_by_id(connection, ids)}


async def _take_off(
    connection: AsyncConnection,
    period: ItemPeriod,
    records: Mapping[int, UsageRecord],
    windows: Sequence[PendingWindow],
    *,
    now: datetime,
    more: bool,
) -> None:
    """Take windows off records of which nothing stands at Stripe, to be booked anew.

    `more` of them follow: the records are put off, for Stripe would refuse them again meanwhile.
    """
    emptied = [
        Placed(window, records[window.usage_record_id or 0].key, period.id, Fraction(1), gone=True)
        for window in windows
    ]
    given = [r for r in records.values() if _never_sent(r)]
    beside: list[Standing] = []
    if period.combination is not Combination.SUM:
        left = {w.usage_record_id or 0 for w in windows}
        without = [w.id for w in windows]
        beside = [
            Standing(w.id, records[w.usage_record_id].key.timestamp, w.window_end, w.amount)
            for w in await foremost_on(connection, left, period.combination, without=without)
        ]
    result, held = await rewrite_locked(
        connection, period, given, emptied, now=now, linger=timedelta(0), beside=beside
    )
    await period_store.write_periods(connection, [result.period], now=now)
    changed = {r.id: r for r in held} | {r.id: r for r in result.records}
    after = [_emptied(record) for record in changed.values()]
    if more:
        after = [_put_off(record, now + PUT_OFF) for record in after]
    await store.write_records(connection, after)
    settled = [SettledWindow(window.id, "pending") for window in windows]
    await facts.settle_windows(connection, settled, now=now)


def _put_off(record: UsageRecord, until: datetime) -> UsageRecord:
    if record.state != "due" or not _never_sent(record):
        return record
    return record._replace(due_at=max(record.due_at or until, until))


async def _close(
    connection: AsyncConnection, periods: Iterable[ItemPeriod], until: int, now: datetime
) -> None:
    """Stripe takes nothing more for these up to a second: what is due there is late."""
    closed = [
        replace(period, closed_until=period_store.latest(period.closed_until, until))
        for period in periods
    ]
    await period_store.write_periods(connection, closed, now=now)
    for period in closed:
        await store.make_late(connection, period.id, until=until, now=now)


async def _go_on_by_increments(
    connection: AsyncConnection, record_id: int, *, now: datetime
) -> None:
    """Send a record that was refused as `set`, and those beside it, by increments from now on.

    What Stripe holds must be known for that. Of a record with an answer outstanding it will be:
    it keeps `set` until that is refused, too.
    """
    (place,) = await store.places(connection, [record_id], [])
    await store.lock_lanes(connection, [place.subscription], due_at=now)
    switched = await connection.execute(
        text(
            """
            with settled as (
                select id from usage_records
                where item_period_id = :period and sent_key is null and not doubtful
                order by id for update)
            update usage_records r set increment = true,
                due_at = case when r.id = :id and r.state = 'due' then :now else r.due_at end
            from settled where r.id = settled.id
            returning r.id
            """
        ),
        {"period": place.item_period_id, "id": record_id, "now": now},
    )
    if record_id in set(switched.scalars()):
        return
    doubtful = await connection.scalar(
        text("select doubtful and sent_key is null from usage_records where id = :id"),
        {"id": record_id},
    )
    if doubtful:
        await _hold(connection, record_id, OUTCOME_IN_DOUBT)


def _never_sent(record: UsageRecord | None) -> bool:
    """Whether nothing of a record stands at Stripe, for certain."""
    return (
        record is not None and record.reported == 0 and not record.unsettled and not record.doubtful
    )


def _emptied(record: UsageRecord) -> UsageRecord:
    """Of what was never sent nothing stands at Stripe, a zero neither: there is nothing to send."""
    if record.wanted or not _never_sent(record):
        return record
    return record._replace(state="reported", due_at=None, unsent_since=None)


async def _unsent_beside(connection: AsyncConnection, place: RecordPlace) -> list[int]:
    """Other records of the period of which nothing stands at Stripe; those with something first."""
    rows = await connection.execute(
        text(
            """
            select id from usage_records
            where item_period_id = :period and id <> :id and reported_quantity = 0
              and sent_key is null and state <> 'held'
            order by wanted_quantity = 0, timestamp limit :limit
            """
        ),
        {"period": place.item_period_id, "id": place.id, "limit": RECORDS_AT_ONCE},
    )
    return list(rows.scalars())


async def _hold(connection: AsyncConnection, record_id: int, reason: str) -> None:
    logger.warning("usage record %d is held: %s", record_id, reason)
    await connection.execute(
        text(
            "update usage_records set state = 'held', reason = :reason, due_at = null "
            "where id = :id and state = 'due'"
        ),
        {"id": record_id, "reason": reason},
    )
