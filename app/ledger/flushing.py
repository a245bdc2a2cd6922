"""Flushing: shortly before a billing period ends, usage that no window has told yet is booked.

A webhook tells an hour or a day when it is over, and then the period may be closed. So from a few
minutes before a period's end on, ever more often, and once more just after it (within Stripe's
grace), OpenMeter is asked for what came since the newest window of each series. The answer is a
provisional window up to the period's end; its record stands at the second when it was first asked.

The regular window that comes later takes its place, on the same record (see `provisional`): what
it tells more or less is a change of that record where the period is open, and carried where not.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.clock import Clock
from app.db import transaction
from app.errors import DatabaseUnavailable
from app.ledger import flushes as store
from app.ledger.flushes import Asked, Provisional, Series, Standing
from app.ledger.incoming import group_key
from app.ledger.querying import combined
from app.ledger.series import SeriesKey
from app.ledger.unforeseen import UNFORESEEN, UNFORESEEN_RETRY
from app.mapping.aggregation import NEEDED, misfit
from app.mapping.cached import CachedMappings
from app.mapping.models import Combination, MeterMapping, SnapshotItem, SubscriptionSnapshot
from app.mapping.resolution import Parked
from app.mapping.resolve import ENDED, SECOND, billable_item, period_second
from app.mapping.snapshots import AFTER_END, JUST_ENDED, Snapshots, ends_at, just_ended
from app.mapping.splitting import matching
from app.openmeter.api import OpenMeterClient
from app.openmeter.api_answers import QueryRow
from app.openmeter.api_errors import OpenMeterError
from app.stripe_client import StripeError, TokenBucket

logger = logging.getLogger(__name__)

# On the first of a month thousands of periods end in the same second.
IN_FLIGHT = 4
# Beside those of booking: Stripe allows 25 per endpoint.
READS_PER_SECOND = 5
# Before the end each flush halves what is left, down to this; then comes the one after the end.
NEAREST = timedelta(seconds=10)
# A period that should have rolled over by now: Stripe is read for the next one.
NEXT_PERIOD = JUST_ENDED
# A snapshot this old may not know that the subscription was changed.
SNAPSHOT_AGE = timedelta(hours=1)
# A delivery told something while OpenMeter was asked: once more from there.
OVERTAKEN = timedelta(seconds=2)


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
        self._slots = asyncio.Semaphore(IN_FLIGHT)
        self._pace = TokenBucket(READS_PER_SECOND, burst=IN_FLIGHT)

    async def flush(self) -> int:
        """Flush what is due; returns how many windows were booked provisionally.

        Raises DatabaseUnavailable.
        """
        now = self._clock.now()
        async with transaction(self._engine) as connection:
            due = await store.claim(connection, now)
        async with asyncio.TaskGroup() as group:
            flushed = [group.create_task(self._try(subscription, now)) for subscription in due]
        return sum(task.result() for task in flushed)

    async def _try(self, subscription: str, now: datetime) -> int:
        async with self._slots:
            try:
                return await self._flush(subscription, now)
            except (OpenMeterError, StripeError, DatabaseUnavailable) as error:
                # It comes back when the lease ends; what is not flushed in time is carried.
                logger.warning("%s could not be flushed: %s", subscription, error)
            except UNFORESEEN:
                # The periods of the others end, too.
                logger.exception("%s could not be flushed; later again", subscription)
                await self._postpone(subscription, now + UNFORESEEN_RETRY)
            return 0

    async def _postpone(self, subscription: str, until: datetime) -> None:
        try:
            async with transaction(self._engine) as connection:
                await store.plan(connection, subscription, until)
        except (DatabaseUnavailable, SQLAlchemyError):
            logger.warning("%s could not be put off", subscription)

    async def _refresh(self, subscription: str) -> SubscriptionSnapshot:
        await self._pace.acquire()
        return await self._snapshots.refresh(subscription)

    async def _flush(self, subscription: str, now: datetime) -> int:
        snapshot = (await self._snapshots.known([subscription])).get(subscription)
        if snapshot is None or now - snapshot.fetched_at > SNAPSHOT_AGE:
            snapshot = await self._refresh(subscription)
        before = ends_at(snapshot)
        if before is not None and now >= before + NEXT_PERIOD:
            snapshot = await self._refresh(subscription)
        ends = ends_at(snapshot)
        ended = just_ended(snapshot, now)
        after: datetime | None
        if ended is not None and snapshot.status not in ENDED:
            # Somebody has read the next period already; this one still has its grace.
            count, overtaken = await self._book(snapshot, ended, now)
            # Not again for this one, however short the next period is.
            after = ended + JUST_ENDED
            if ends is not None:
                after = max(after, ends - self._snapshots.flush_before)
        elif ends is None or now < ends - self._snapshots.flush_before:
            count, overtaken = 0, False
            after = None if ends is None else ends - self._snapshots.flush_before
        else:
            cancels = snapshot.cancel_at_period_end or snapshot.cancel_at == ends
            count, overtaken = 0, False
            if not (cancels and now >= ends):
                count, overtaken = await self._book(snapshot, ends, now)
            after = next_flush(now, ends, cancels=cancels)
        async with transaction(self._engine) as connection:
            await store.plan(connection, subscription, now + OVERTAKEN if overtaken else after)
        return count

    async def _book(
        self, snapshot: SubscriptionSnapshot, ends: datetime, now: datetime
    ) -> tuple[int, bool]:
        """Ask for what no window tells and write it down, provisionally.

        How many windows were written, and whether a delivery was quicker. Raises OpenMeterError.
        """
        async with transaction(self._engine) as connection:
            series = await store.series_of(connection, snapshot.subscription, ends)
            by_question: dict[Asked, list[Series]] = defaultdict(list)
            for one in series:
                by_question[Asked(one.key.meter, one.key.subject)].append(one)
            standing = await store.standing_starts(connection, by_question, ends)
        known = await self._mappings.find((), {asked.meter for asked in by_question})
        count = 0
        overtaken = False
        for asked, group in by_question.items():
            found = await self._ask(
                asked, group, known.meters.get(asked.meter, ()), standing, snapshot, ends, now
            )
            if not found:
                continue
            async with transaction(self._engine) as connection:
                if await store.lock_told(connection, asked, found) != found[0].told_until:
                    overtaken = True
                    continue
                for provisional in found:
                    count += await store.write(connection, provisional, now)
        return count, overtaken

    async def _ask(
        self,
        asked: Asked,
        group: Sequence[Series],
        meters: Sequence[MeterMapping],
        standing: Mapping[SeriesKey, Standing],
        snapshot: SubscriptionSnapshot,
        ends: datetime,
        now: datetime,
    ) -> list[Provisional]:
        """What OpenMeter has beyond the windows of a meter and subject. Raises OpenMeterError."""
        starts = [
            start for one in group if (start := _period_start(one, meters, snapshot, ends, now))
        ]
        if not starts:
            return []
        # A delivery tells all groups at once: what none of them has is told by none.
        told = max(one.newest_end for one in group)
        start = max(told, *starts)
        until = min(ends, now.replace(microsecond=0))
        again = {
            key: one for key, one in standing.items() if Asked(key.meter, key.subject) == asked
        }
        first = min([start, *(one.start for one in again.values())]).replace(microsecond=0)
        if until - max(starts) <= SECOND or first >= until or told >= ends:
            return []
        try:
            rows = await self._client.query(
                asked.meter,
                from_=first,
                to=until,
                subject=asked.subject,
                group_by=sorted({name for one in group for name in one.group_by}),
                window_size="MINUTE",
            )
        except ValueError as error:
            # A name or a bound that the API cannot express: its windows are booked as they come.
            logger.warning("%s cannot be asked before a period ends: %s", asked.meter, error)
            return []
        return _provisional(
            group[0],
            rows,
            start=start,
            standing=again,
            ends=ends,
            told=told,
            second=period_second(until) - 1,
        )


def _period_start(
    series: Series,
    meters: Iterable[MeterMapping],
    snapshot: SubscriptionSnapshot,
    ends: datetime,
    now: datetime,
) -> datetime | None:
    """Where the period that ends so begins, for the item that bills the series, if one does."""
    mapping = matching(tuple(meters), series.group_by)
    if mapping is None:
        return None
    item = billable_item(snapshot, mapping, now)
    if isinstance(item, Parked) or misfit(
        series.aggregation, item.aggregate_usage, whole_period=mapping.whole_period
    ):
        return None
    return _start_of(item, ends)


def _start_of(item: SnapshotItem, ends: datetime) -> datetime | None:
    if item.period_start < ends:
        return item.period_start
    if item.previous_end is not None and item.previous_end >= ends:
        return item.previous_start
    return None


def _provisional(
    series: Series,
    rows: Iterable[QueryRow],
    *,
    start: datetime,
    standing: Mapping[SeriesKey, Standing],
    ends: datetime,
    told: datetime,
    second: int,
) -> list[Provisional]:
    """One provisional window for each group that has usage. Pure.

    One that stands already is told anew from where it begins: only a window takes its place.
    """
    by_group: dict[bytes, list[QueryRow]] = defaultdict(list)
    written = {key.group_key: one.group_by for key, one in standing.items()}
    for row in rows:
        group, text = group_key(row.group_by, contradicts=False)
        by_group[group].append(row)
        written.setdefault(group, text)
    found = []
    for group, group_by in written.items():
        key = SeriesKey(series.key.meter, series.key.subject, group)
        begins = standing[key].start if key in standing else start
        value = combined(
            series.aggregation, (row for row in by_group[group] if row.window_end > begins)
        )
        if value is None and key in standing and _nothing_counts(series.aggregation):
            value = Decimal(0)
        if value is not None:
            found.append(
                Provisional(key, group_by, series.aggregation, begins, ends, told, second, value)
            )
    return found


def _nothing_counts(aggregation: str) -> bool:
    """Whether no usage is a value: it is not the newest one."""
    return NEEDED.get(aggregation) in (Combination.SUM, Combination.MAX)
