"""Step 2, book: deliveries -> usage windows -> the usage record each belongs to. One commit.

    claim received deliveries and pending windows          rows locked, nobody else has them
    keep the windows (insert, revise, ignore what is older)
    resolve them under the shared mapping lock             from what is known: no network here
    write totals, records, lanes and what became of each window

A window whose subscription was never read (or too long ago) stays pending; the snapshot is read
after the commit and the window is booked in the next round. Nothing is ever between two stools: a
kill at any point leaves the delivery received, or its windows in the ledger.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.clock import Clock
from app.db import transaction
from app.ledger import records as store
from app.ledger import windows as facts
from app.ledger.placing import Placed, Rewritten, rewrite
from app.ledger.records import PeriodKey, RecordKey, RecordPlace
from app.ledger.windows import (
    AWAITING_SNAPSHOT,
    ClaimedDelivery,
    IncomingWindow,
    PendingWindow,
    SettledWindow,
    WindowKey,
)
from app.mapping.cached import CachedMappings, KnownMappings
from app.mapping.models import SubscriptionSnapshot
from app.mapping.repository import share_lock
from app.mapping.resolve import NeedsSnapshot, Parked, Target, resolve
from app.mapping.snapshots import Snapshots
from app.openmeter.report import InvalidMessage, UnknownType, UsageReport, parse_message

logger = logging.getLogger(__name__)

# A delivery has at most 10,000 windows and mostly a few; a transaction stays in the milliseconds.
DELIVERIES_PER_BATCH = 100
WINDOWS_PER_BATCH = 2_000
# How long a window waits for the process that reads its snapshot, before another one tries.
SNAPSHOT_PATIENCE = timedelta(seconds=30)
# What a defect of ours, or a value nobody foresaw, raises. An unavailable database is neither.
UNFORESEEN = (ValueError, TypeError, LookupError, ArithmeticError, SQLAlchemyError)


class PlaceMoved(Exception):
    """Another replica made the record, in another period, a moment ago: book the batch again."""


@dataclass(frozen=True, slots=True)
class Round:
    """What one round did. `subscriptions` must be read from Stripe before more can be done."""

    deliveries: int = 0
    windows: int = 0
    subscriptions: frozenset[str] = frozenset()
    parked: Counter[str] = field(default_factory=Counter)

    @property
    def idle(self) -> bool:
        """Whether there was nothing to do."""
        return self.deliveries == 0 and self.windows == 0


class Booker:
    """Books batches. Any number of bookers may work on one database."""

    def __init__(
        self,
        engine: AsyncEngine,
        clock: Clock,
        mappings: CachedMappings,
        snapshots: Snapshots,
        *,
        linger: timedelta,
        snapshot_max_age: timedelta,
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._mappings = mappings
        self._snapshots = snapshots
        self._linger = linger
        self._snapshot_max_age = snapshot_max_age

    async def book(self) -> Round:
        """Book one batch. Raises DatabaseUnavailable.

        A delivery that cannot be booked for a reason nobody foresaw must not stop those behind it:
        when a batch fails, its deliveries are booked one by one, and the culprit is set aside as
        `failed`, where the summary shows it.
        """
        try:
            return await self._book()
        except PlaceMoved:
            return await self._book()
        except UNFORESEEN:
            logger.exception("a batch could not be booked; its oldest delivery is booked alone")
            return await self._book_oldest()

    async def _book_oldest(self) -> Round:
        async with transaction(self._engine) as connection:
            oldest = [d.id for d in await facts.claim_deliveries(connection, 1)]
        if not oldest:
            return Round()
        try:
            return await self._book(only=oldest[0])
        except UNFORESEEN as error:
            logger.exception("delivery %d could not be booked: set aside as failed", oldest[0])
            async with transaction(self._engine) as connection:
                still = await facts.claim_deliveries(connection, 1, only=oldest[0])
                await facts.settle_deliveries(
                    connection,
                    [delivery.id for delivery in still],
                    state="failed",
                    now=self._clock.now(),
                    faults=[{"path": "", "message": type(error).__name__}],
                )
            return Round(deliveries=len(still))

    async def _book(self, *, only: int | None = None) -> Round:
        now = self._clock.now()
        async with transaction(self._engine) as connection:
            self._mappings.sync(await share_lock(connection))
            deliveries = await facts.claim_deliveries(connection, DELIVERIES_PER_BATCH, only=only)
            pending = await self._keep(connection, deliveries, now)
            if only is None:
                for window in await facts.claim_pending(
                    connection, now=now, limit=WINDOWS_PER_BATCH
                ):
                    pending.setdefault(window.id, window)
            if not deliveries and not pending:
                return Round()
            return await self._settle(connection, deliveries, list(pending.values()), now)

    async def _keep(
        self, connection: AsyncConnection, deliveries: Sequence[ClaimedDelivery], now: datetime
    ) -> dict[int, PendingWindow]:
        """Store the windows of deliveries. Returns those that are to be booked, by id."""
        incoming: list[IncomingWindow] = []
        sound: list[int] = []
        for delivery in deliveries:
            try:
                report = parse_message(delivery.body)
            except (InvalidMessage, UnknownType) as error:
                # It was accepted by a version that read it otherwise: shown, never dropped.
                logger.error("delivery %s was accepted but is not a report", delivery.svix_id)
                faults = [{"path": "", "message": type(error).__name__}]
                await facts.settle_deliveries(
                    connection, [delivery.id], state="failed", now=now, faults=faults
                )
                continue
            if isinstance(report, UsageReport):
                incoming.extend(_incoming(delivery, report))
            sound.append(delivery.id)
        kept, older = await facts.keep_windows(connection, incoming)
        if older:
            logger.info("%d windows were not newer than what is known: ignored", older)
        if sound:
            await facts.settle_deliveries(connection, sound, state="booked", now=now)
        return {window.id: window for window in kept}

    async def _settle(
        self,
        connection: AsyncConnection,
        deliveries: Sequence[ClaimedDelivery],
        pending: Sequence[PendingWindow],
        now: datetime,
    ) -> Round:
        known = await self._mappings.find(
            {window.facts.subject for window in pending}, {window.facts.meter for window in pending}
        )
        snapshots = await self._snapshots.known(
            sorted({m.subscription for spans in known.subjects.values() for m in spans})
        )
        targets: list[tuple[PendingWindow, Target]] = []
        standing: list[PendingWindow] = []
        settled: list[SettledWindow] = []
        needed: set[str] = set()
        for window in pending:
            if window.usage_record_id is not None:
                standing.append(window)
                continue
            found = self._resolve(window, known, snapshots, now)
            if isinstance(found, Target):
                targets.append((window, found))
            elif isinstance(found, Parked):
                settled.append(
                    SettledWindow(window.id, "parked", found.reason, found.detail, found.retry_at)
                )
            else:
                needed.add(found.subscription)
                settled.append(_waiting(window, found, now))
        settled += await self._place(connection, targets, standing, known, now)
        await facts.settle_windows(connection, settled, now=now)
        parked = Counter(w.reason for w in settled if w.state == "parked" and w.reason)
        return Round(len(deliveries), len(pending), frozenset(needed), parked)

    def _resolve(
        self,
        window: PendingWindow,
        known: KnownMappings,
        snapshots: dict[str, SubscriptionSnapshot],
        now: datetime,
    ) -> Target | Parked | NeedsSnapshot:
        return resolve(
            window.facts,
            subjects=known.subjects.get(window.facts.subject, ()),
            meter=known.meters.get(window.facts.meter),
            snapshots=snapshots,
            now=now,
            snapshot_max_age=self._snapshot_max_age,
        )

    async def _place(
        self,
        connection: AsyncConnection,
        targets: Sequence[tuple[PendingWindow, Target]],
        standing: Sequence[PendingWindow],
        known: KnownMappings,
        now: datetime,
    ) -> list[SettledWindow]:
        """Book the windows on their records and write these."""
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
                target.rounding,
            )
            for window, target in targets
        ]
        placed += [_standing(window, by_id, known) for window in standing]
        subscriptions = {t.subscription for t in wanted.values()}
        subscriptions |= {place.subscription for place in existing}
        locked = await store.lock_periods(connection, {p.item_period_id for p in placed})
        await store.lock_lanes(connection, subscriptions, due_at=now + self._linger)
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
        record_ids, rewritten = await self._rewrite(connection, locked, by_period, now)
        changed = [record for r in rewritten for record in r.records]
        await store.write_periods(connection, [r.period for r in rewritten])
        if changed:
            await store.write_records(connection, changed)
        return [
            SettledWindow(p.window.id, "booked", usage_record_id=record_ids[p.key], amount=p.amount)
            for p in placed
        ]

    async def _rewrite(
        self,
        connection: AsyncConnection,
        locked: dict[int, store.ItemPeriod],
        by_period: dict[int, list[Placed]],
        now: datetime,
    ) -> tuple[dict[RecordKey, int], list[Rewritten]]:
        """Lock the records and compute what must stand on each."""
        held = await store.lock_records(
            connection, {p.key for placed in by_period.values() for p in placed}
        )
        records: dict[int, dict[RecordKey, store.UsageRecord]] = defaultdict(dict)
        for record in held:
            if record.item_period_id not in by_period:
                raise PlaceMoved
            records[record.item_period_id][record.key] = record
        rewritten = []
        for period_id, placed in by_period.items():
            if any(p.key not in records[period_id] for p in placed):
                raise PlaceMoved
            period = locked[period_id]
            result = rewrite(
                period, records[period_id].values(), placed, now=now, linger=self._linger
            )
            if result.missing:
                for record in await store.lock_period_records(connection, period_id):
                    records[period_id].setdefault(record.key, record)
                result = rewrite(
                    period, records[period_id].values(), placed, now=now, linger=self._linger
                )
            rewritten.append(result)
        return {record.key: record.id for record in held}, rewritten


def _incoming(delivery: ClaimedDelivery, report: UsageReport) -> list[IncomingWindow]:
    windows = []
    for window in report.windows:
        key, written = facts.group_key(
            dict(window.group_by), contradicts=window.subject_contradicts
        )
        windows.append(
            IncomingWindow(
                WindowKey(
                    report.meter.slug, window.subject, key, window.window_start, window.window_end
                ),
                written,
                report.meter.aggregation,
                window.value,
                window.subject_contradicts,
                delivery,
            )
        )
    return windows


def _standing(window: PendingWindow, by_id: dict[int, RecordPlace], known: KnownMappings) -> Placed:
    """A window that stands on a record stays there; its amount is scaled as mapped now."""
    assert window.usage_record_id is not None  # noqa: S101 - the caller chose such windows
    place = by_id[window.usage_record_id]
    meter = known.meters[window.facts.meter]
    return Placed(window, place.key, place.item_period_id, meter.scale, meter.rounding)


def _waiting(window: PendingWindow, needs: NeedsSnapshot, now: datetime) -> SettledWindow:
    return SettledWindow(
        window.id, "pending", AWAITING_SNAPSHOT, needs.subscription, now + SNAPSHOT_PATIENCE
    )
