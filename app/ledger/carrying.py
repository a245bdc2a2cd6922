"""Carrying: what came too late for its billing period is added to the period that is open now.

A record of a closed period keeps what Stripe took. What is still wanted there beyond that goes to
the carry record of the item's current period, which stands at the period's first second; a carry
and the two records that it changes are written in one transaction, so it counts once, whatever
crashes. A difference downward takes back what was carried to that record; what would go below zero
is owed to the customer: the record is held as `credit_due`.

Where the policy is `hold`, or the price does not add up, the record is held as `period_closed`.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from fractions import Fraction

from sqlalchemy.ext.asyncio import AsyncEngine

from app.clock import Clock
from app.db import transaction
from app.ledger import late_records as late_store
from app.ledger import periods as period_store
from app.ledger import records as store
from app.ledger.late_records import Carry, LatePeriod
from app.ledger.new_records import NewRecord, PlaceMoved, empty_record, insert_records
from app.ledger.periods import PeriodKey
from app.ledger.placing import changed_record
from app.ledger.records import RecordKey, UsageRecord
from app.ledger.successors import Successors, successor
from app.ledger.unforeseen import UNFORESEEN, UNFORESEEN_RETRY
from app.mapping.models import Combination, LatePolicy, SnapshotItem, SubscriptionSnapshot
from app.mapping.resolution import Target
from app.mapping.resolve import CARRY_OFFSET, ENDED, period_second
from app.mapping.snapshots import Snapshots

logger = logging.getLogger(__name__)

RECORDS_AT_ONCE = 500
# Each is a transaction or two, and booking waits meanwhile: at a month's end hundreds are late.
PERIODS_AT_ONCE = 20
# A subscription that cannot be read, or whose next period is not there yet, is looked at again.
LOOK_AGAIN = timedelta(seconds=10)
PERIOD_CLOSED = "period_closed"
CREDIT_DUE = "credit_due"
OUTCOME_IN_DOUBT = "outcome_in_doubt"


@dataclass(frozen=True, slots=True)
class Carried:
    """What one round did. `subscriptions` must be read from Stripe before more can be done."""

    records: int = 0
    subscriptions: frozenset[str] = frozenset()


def carried_quantity(wanted: int, reported: int, carried_there: int) -> int:
    """How much goes to the carry record, which has `carried_there`; below zero: comes back. Pure.

    More than what was carried there cannot come back: the customer was billed for the rest.
    """
    return max(wanted - reported, -carried_there)


class Carrier:
    """Carries what is late. Any number of carriers may work on one database."""

    def __init__(
        self,
        engine: AsyncEngine,
        clock: Clock,
        snapshots: Snapshots,
        successors: Successors,
        *,
        linger: timedelta,
        late_policy: LatePolicy,
    ) -> None:
        """`late_policy`: of meters whose mapping says none."""
        self._engine = engine
        self._clock = clock
        self._snapshots = snapshots
        self._successors = successors
        self._linger = linger
        self._late_policy = late_policy

    async def carry(self) -> Carried:
        """Carry or hold some late records. Raises DatabaseUnavailable."""
        now = self._clock.now()
        async with transaction(self._engine) as connection:
            late = await late_store.late_periods(connection, now, limit=RECORDS_AT_ONCE)
        late = late[:PERIODS_AT_ONCE]
        if not late:
            return Carried()
        snapshots = await self._snapshots.known(sorted({period.subscription for period in late}))
        done = 0
        needed: set[str] = set()
        for period in late:
            snapshot = snapshots.get(period.subscription)
            try:
                settled = await self._settle(period, snapshot, now)
            except PlaceMoved:
                settled = None
            except UNFORESEEN:
                # One period that cannot be carried must not keep the others, or the booking.
                logger.exception("item period %d could not be carried; later again", period.id)
                await self._postpone(period, now + UNFORESEEN_RETRY)
                continue
            if settled is None:
                needed.add(period.subscription)
                await self._postpone(period, now + _patience(snapshot, now))
            else:
                done += settled
        return Carried(done, frozenset(needed))

    async def _settle(
        self, period: LatePeriod, snapshot: SubscriptionSnapshot | None, now: datetime
    ) -> int | None:
        """Carry or hold; how many records. None: the subscription must be read first."""
        mapping = await self._successors.mapping(period.records)
        policy = period.late_policy  # of what was booked last, where it is mapped no more
        if mapping is not None:
            policy = mapping.late_policy or self._late_policy
        if policy is LatePolicy.HOLD or period.combination is not Combination.SUM:
            return await self._hold(period)
        if snapshot is None or _overdue(snapshot, now):
            return None
        item = successor(period.subscription_item, snapshot, mapping)
        if item is None:
            return await self._hold(period)
        increment = snapshot.billing_thresholds or item.billing_thresholds
        return await self._carry(period, item, increment=increment)

    async def _postpone(self, period: LatePeriod, until: datetime) -> None:
        async with transaction(self._engine) as connection:
            await late_store.postpone(connection, period, until)

    async def _hold(self, period: LatePeriod) -> int:
        """Hold the records of a period whose difference is not carried."""
        async with transaction(self._engine) as connection:
            await period_store.lock_periods(connection, [period.id])
            await store.lock_lanes(connection, [period.subscription], due_at=None)
            records = await late_store.lock_late(connection, period.records)
            settled = [_settled(record, PERIOD_CLOSED) for record in records]
            if settled:
                await store.write_records(connection, settled)
        _log(settled)
        return len(settled)

    async def _carry(
        self, period: LatePeriod, item: SnapshotItem, *, increment: bool
    ) -> int | None:
        """Carry the differences of a period's late records to the item's current period.

        None where that is closed, too: the snapshot is older than that.
        """
        now = self._clock.now()
        target = _carry_target(period, item, increment=increment)
        key = RecordKey(item.id, target.timestamp)
        async with transaction(self._engine) as connection:
            opened = await period_store.open_periods(connection, [target], now=now)
            here = opened[PeriodKey(item.id, item.period_start)]
            locked = await period_store.lock_periods(connection, {period.id, here})
            if here == period.id or locked[here].is_closed_at(key.timestamp):
                return None
            await store.lock_lanes(connection, [period.subscription], due_at=now + self._linger)
            late = await late_store.lock_late(connection, period.records)
            found = await store.lock_records(connection, [key])
            if any(there.item_period_id != here for there in found):
                # The period was moved under a record that stands at its second.
                homes = [_settled(record, PERIOD_CLOSED) for record in late]
                carries: list[Carry] = []
            else:
                homes, carries = carry_all(late, sum(there.carried for there in found))
            if homes:
                await store.write_records(connection, homes)
            if carries:
                svix_id = max(carries, key=lambda carry: carry.home.id).home.svix_id
                new = NewRecord(key, period.subscription, here, svix_id, increment)
                there = found[0] if found else empty_record(new)
                moved = sum(carry.quantity for carry in carries)
                after = changed_record(
                    there._replace(carried=there.carried + moved),
                    there.wanted + moved,
                    svix_id,
                    closed=False,
                    now=now,
                    linger=self._linger,
                )
                if found:
                    await store.write_records(connection, [after])
                    to_record = there.id
                else:
                    to_record = (await insert_records(connection, [(new, after)]))[key]
                await late_store.write_carries(connection, carries, to_record, now)
        _log(homes)
        if carries:
            logger.info(
                "%d units of %s carried forward to %s",
                sum(carry.quantity for carry in carries),
                period.subscription_item,
                item.period_start.isoformat(),
            )
        return len(homes)


def carry_all(
    late: Iterable[UsageRecord], carried_there: int
) -> tuple[list[UsageRecord], list[Carry]]:
    """The home records after carrying, and each with what was carried from it. Pure.

    Those that carry most come first: what is taken back may come out of what they bring.
    """
    homes: list[UsageRecord] = []
    carries: list[Carry] = []
    for record in sorted(late, key=lambda record: (record.reported - record.wanted, record.id)):
        quantity = 0
        if not record.doubtful:
            quantity = carried_quantity(record.wanted, record.reported, carried_there)
        carried_there += quantity
        if quantity:
            carries.append(Carry(record, quantity))
        home = record._replace(wanted=record.wanted - quantity, carried=record.carried - quantity)
        homes.append(_settled(home, CREDIT_DUE))
    return homes, carries


def _settled(record: UsageRecord, reason: str) -> UsageRecord:
    """The record as reported where Stripe holds what is wanted, else held for the reason."""
    if record.doubtful:
        return record._replace(state="held", reason=OUTCOME_IN_DOUBT, detail=None, due_at=None)
    if record.wanted == record.reported:
        return record._replace(state="reported", due_at=None, unsent_since=None)
    return record._replace(state="held", reason=reason, detail=_owed(record), due_at=None)


def _owed(record: UsageRecord) -> str:
    difference = record.wanted - record.reported
    what = "more than Stripe took" if difference > 0 else "billed too much"
    return f"{abs(difference)} unit{'' if abs(difference) == 1 else 's'} {what}"


def _log(settled: Iterable[UsageRecord]) -> None:
    for record in settled:
        if record.state == "held":
            logger.warning(
                "usage record %d is held: %s (%s)", record.id, record.reason, record.detail
            )


def _overdue(snapshot: SubscriptionSnapshot, now: datetime) -> timedelta:
    """For how long the snapshot's period is over: the one that takes the carry is not in it."""
    if snapshot.status in ENDED:
        return timedelta(0)
    return max([timedelta(0), *(now - item.period_end for item in snapshot.items)])


def _patience(snapshot: SubscriptionSnapshot | None, now: datetime) -> timedelta:
    """How long to wait for a period that is not there yet.

    The longer Stripe itself has shown the old one beyond its end, as reads are rationed. A snapshot
    from before that end says nothing of it: it is read now, and what is late must not wait half as
    long as nobody looked.
    """
    if snapshot is None or not _overdue(snapshot, snapshot.fetched_at):
        return LOOK_AGAIN
    return max(LOOK_AGAIN, _overdue(snapshot, now) / 2)


def _carry_target(period: LatePeriod, item: SnapshotItem, *, increment: bool) -> Target:
    return Target(
        period.subscription,
        item.id,
        item.period_start,
        item.period_end,
        period_second(item.period_start) + CARRY_OFFSET,
        Fraction(1),
        period.rounding,
        Combination.SUM,
        period.late_policy,
        increment,
    )
