"""Flushing: shortly before a billing period ends, usage that no window has told yet is booked.

A webhook tells an hour or a day when it is over, and then the period may be closed. So from a few
minutes before a period's end on, ever more often, and once more just after it (within Stripe's
grace), OpenMeter is asked for what came since the newest window of each series. The answer is a
provisional window up to the period's end; its record stands at the second when it was first asked.

The regular window that comes later takes its place, on the same record (see `provisional`): what
it tells more or less is a change of that record where the period is open, and carried where not.
"""

import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.clock import Clock
from app.db import transaction
from app.ledger.keeping import group_key
from app.ledger.querying import combined
from app.ledger.series import SeriesKey
from app.mapping.cached import CachedMappings
from app.mapping.models import MeterMapping, SnapshotItem, SubscriptionSnapshot
from app.mapping.resolve import ENDED, Parked, billable_item, period_second
from app.mapping.snapshots import Snapshots, ends_at
from app.mapping.splitting import matching
from app.openmeter.api import OpenMeterClient
from app.openmeter.api_answers import QueryRow
from app.openmeter.api_errors import OpenMeterError
from app.stripe_client import StripeError

logger = logging.getLogger(__name__)

SUBSCRIPTIONS_AT_ONCE = 20
# Who flushes may be killed: another one does it after this.
LEASE = timedelta(seconds=30)
# Before the end each flush halves what is left, down to this; then comes the one after the end.
NEAREST = timedelta(seconds=10)
# Late enough that OpenMeter has taken in the last events, early enough for Stripe's grace.
AFTER_END = timedelta(seconds=10)
# A period that should have rolled over by now: Stripe is read for the next one.
NEXT_PERIOD = timedelta(seconds=60)
# A snapshot this old may not know that the subscription was changed.
SNAPSHOT_AGE = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Series:
    """A series of a subscription, and up to where its usage is told by windows."""

    key: SeriesKey
    group_by: dict[str, str]
    aggregation: str
    newest_end: datetime


@dataclass(frozen=True, slots=True)
class Provisional:
    """What a series has from `start` up to now, in a period that ends at `end`."""

    key: SeriesKey
    group_by: str  # JSON
    aggregation: str
    start: datetime
    end: datetime
    told_until: datetime | None
    value: Decimal


def next_flush(now: datetime, ends: datetime, *, cancels: bool) -> datetime:
    """When to flush again, after a flush at `now`. Pure."""
    left = ends - now
    if left > NEAREST:
        return now + left / 2
    if left > timedelta(0):
        return ends + (NEXT_PERIOD if cancels else AFTER_END)
    return ends + max(NEXT_PERIOD, (now - ends) * 2)


class Flusher:
    """Flushes the subscriptions whose periods end. Any number may work on one database."""

    def __init__(
        self,
        engine: AsyncEngine,
        clock: Clock,
        client: OpenMeterClient,
        mappings: CachedMappings,
        snapshots: Snapshots,
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._client = client
        self._mappings = mappings
        self._snapshots = snapshots

    async def flush(self) -> int:
        """Flush what is due; returns how many windows were booked provisionally.

        Raises DatabaseUnavailable.
        """
        now = self._clock.now()
        async with transaction(self._engine) as connection:
            due = await _claim(connection, now)
        count = 0
        for subscription in due:
            try:
                count += await self._flush(subscription, now)
            except (OpenMeterError, StripeError) as error:
                # It comes back when the lease ends; what is not flushed in time is carried.
                logger.warning("%s could not be flushed: %s", subscription, error)
        return count

    async def _flush(self, subscription: str, now: datetime) -> int:
        snapshot = (await self._snapshots.known([subscription])).get(subscription)
        if snapshot is None or now - snapshot.fetched_at > SNAPSHOT_AGE:
            snapshot = await self._snapshots.refresh(subscription)
        ends = ends_at(snapshot)
        if ends is not None and now >= ends + NEXT_PERIOD:
            snapshot = await self._snapshots.refresh(subscription)
            if ends_at(snapshot) != ends:
                return 0  # saving it said when the next flush is
        if ends is None or snapshot.status in ENDED:
            await self._plan(subscription, None)
            return 0
        cancels = snapshot.cancel_at_period_end or snapshot.cancel_at == ends
        count = 0
        if not (cancels and now >= ends):
            provisional = await self._ask(snapshot, ends, now)
            count = await self._keep(provisional, ends, now)
        await self._plan(subscription, next_flush(now, ends, cancels=cancels))
        return count

    async def _plan(self, subscription: str, at: datetime | None) -> None:
        async with transaction(self._engine) as connection:
            await connection.execute(
                text(
                    "update subscription_snapshots set flush_at = :at "
                    "where subscription = :subscription"
                ),
                {"at": at, "subscription": subscription},
            )

    async def _ask(
        self, snapshot: SubscriptionSnapshot, ends: datetime, now: datetime
    ) -> list[Provisional]:
        """What OpenMeter has beyond the windows of each series. Raises OpenMeterError."""
        async with transaction(self._engine) as connection:
            series = await _series_of(connection, snapshot.subscription, ends)
        meters = await self._mappings.find((), {one.key.meter for one in series})
        until = min(ends, now.replace(microsecond=0))
        asked: dict[tuple[str, str], list[Series]] = defaultdict(list)
        for one in series:
            asked[one.key.meter, one.key.subject].append(one)
        found: list[Provisional] = []
        for (meter, subject), group in asked.items():
            known = meters.meters.get(meter, ())
            items = [_item_of(one, known, snapshot, now) for one in group]
            starts = [item.period_start for item in items if item is not None]
            if not starts:
                continue
            # A delivery tells all groups at once: what none of them has is told by none.
            told = max(one.newest_end for one in group)
            start = max(told, *starts)
            if start >= until:
                continue
            rows = await self._client.query(
                meter,
                from_=start,
                to=until,
                subject=subject,
                group_by=sorted({name for one in group for name in one.group_by}),
                window_size="MINUTE",
            )
            found += _provisional(group[0], rows, start, ends, told)
        return found

    async def _keep(self, provisional: Sequence[Provisional], ends: datetime, now: datetime) -> int:
        """Write provisional windows down, unless a window has told of them meanwhile."""
        count = 0
        second = period_second(min(now.replace(microsecond=0), ends)) - 1
        for one in provisional:
            async with transaction(self._engine) as connection:
                told = await _lock_series(connection, one.key)
                if told is not None and told > one.start:
                    continue
                count += await _write(connection, one, second, now)
        return count


def _item_of(
    series: Series,
    meters: Iterable[MeterMapping],
    snapshot: SubscriptionSnapshot,
    now: datetime,
) -> SnapshotItem | None:
    mapping = matching(tuple(meters), series.group_by)
    if mapping is None:
        return None
    item = billable_item(snapshot, mapping, now)
    return None if isinstance(item, Parked) else item


def _provisional(
    series: Series, rows: Iterable[QueryRow], start: datetime, ends: datetime, told: datetime
) -> list[Provisional]:
    """One provisional window for each group that has usage. Pure."""
    by_group: dict[tuple[tuple[str, str], ...], list[QueryRow]] = defaultdict(list)
    for row in rows:
        by_group[tuple(sorted(row.group_by.items()))].append(row)
    found = []
    for groups, minutes in by_group.items():
        value = combined(series.aggregation, minutes)
        if value is None:
            continue
        key, written = group_key(dict(groups), contradicts=False)
        found.append(
            Provisional(
                SeriesKey(series.key.meter, series.key.subject, key),
                written,
                series.aggregation,
                start,
                ends,
                told,
                value,
            )
        )
    return found


async def _claim(connection: AsyncConnection, now: datetime) -> list[str]:
    """Subscriptions to be flushed now; nobody else flushes them until the lease ends."""
    rows = await connection.execute(
        text(
            """
            update subscription_snapshots set flush_at = cast(:now as timestamptz) + :lease
            where subscription in (
                select subscription from subscription_snapshots
                where flush_at <= :now order by flush_at limit :limit for update skip locked)
            returning subscription
            """
        ),
        {"now": now, "lease": LEASE, "limit": SUBSCRIPTIONS_AT_ONCE},
    )
    return list(rows.scalars())


async def _series_of(
    connection: AsyncConnection, subscription: str, ends: datetime
) -> list[Series]:
    """The series of the subjects that are mapped to a subscription when its period ends."""
    rows = await connection.execute(
        text(
            """
            select s.meter, s.subject, s.group_key, s.group_by, s.aggregation, s.newest_end
            from subject_mappings m join usage_series s on s.subject = m.subject
            where m.subscription = :subscription
              and (m.valid_from is null or m.valid_from < :ends)
              and (m.valid_to is null or m.valid_to >= :ends)
            order by s.meter, s.subject, s.group_key
            """
        ),
        {"subscription": subscription, "ends": ends},
    )
    return [
        Series(
            SeriesKey(row.meter, row.subject, row.group_key),
            row.group_by,
            row.aggregation,
            row.newest_end,
        )
        for row in rows
    ]


async def _lock_series(connection: AsyncConnection, key: SeriesKey) -> datetime | None:
    """Lock a series; up to where its windows tell. None where it has none yet."""
    told: datetime | None = await connection.scalar(
        text(
            """
            select newest_end from usage_series
            where meter = :meter and subject = :subject and group_key = :group_key for update
            """
        ),
        key._asdict(),
    )
    return told


async def _write(connection: AsyncConnection, one: Provisional, second: int, now: datetime) -> int:
    """Insert or revise a provisional window; what a delivery told stands. Returns 1 or 0."""
    result = await connection.execute(
        text(
            """
            insert into usage_windows as w (
                meter, subject, group_key, group_by, window_start, window_end, aggregation, value,
                source, svix_id, message_at, state, record_at)
            values (:meter, :subject, :group_key, cast(:group_by as jsonb), :start, :end,
                    :aggregation, :value, 'flush', :svix_id, :now, 'pending', :second)
            on conflict (meter, subject, group_key, window_start, window_end) do update set
                value = excluded.value, svix_id = excluded.svix_id,
                message_at = excluded.message_at,
                revision = w.revision + 1, state = 'pending', reason = null, retry_at = null
            where w.source = 'flush' and w.value <> excluded.value and w.state <> 'covered'
            """
        ),
        {
            **one.key._asdict(),
            "group_by": one.group_by,
            "start": one.start,
            "end": one.end,
            "aggregation": one.aggregation,
            "value": one.value,
            "svix_id": f"query-{period_second(now)}",
            "now": now,
            "second": second,
        },
    )
    return result.rowcount
