"""Carrying: what came too late for its billing period is added to the period that is open now.

A record of a closed period keeps what Stripe took. What is still wanted there beyond that goes to
the carry record of the item's current period, which stands at the period's first second; a carry
and the two records that it changes are written in one transaction, so it counts once, whatever
crashes. A difference downward takes back what was carried to that record; what would go below zero
is owed to the customer: the record is held as `credit_due`.

Where the policy is `hold`, or the price does not add up, the record is held as `period_closed`.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.clock import Clock
from app.db import transaction
from app.ledger import periods as period_store
from app.ledger import records as store
from app.ledger.periods import PeriodKey
from app.ledger.placing import changed_record
from app.ledger.records import NewRecord, RecordKey, UsageRecord
from app.ledger.successors import Successors
from app.mapping.models import Combination, LatePolicy, Rounding, SnapshotItem, SubscriptionSnapshot
from app.mapping.resolve import CARRY_OFFSET, ENDED, Target, period_second
from app.mapping.snapshots import Snapshots

logger = logging.getLogger(__name__)

RECORDS_AT_ONCE = 500
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


@dataclass(frozen=True, slots=True)
class LatePeriod:
    """A closed item period and its late records, in the order of their ids."""

    id: int
    subscription: str
    subscription_item: str
    combination: Combination
    late_policy: LatePolicy
    rounding: Rounding
    records: tuple[int, ...]


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
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._snapshots = snapshots
        self._successors = successors
        self._linger = linger

    async def carry(self) -> Carried:
        """Carry or hold some late records. Raises DatabaseUnavailable."""
        now = self._clock.now()
        async with transaction(self._engine) as connection:
            late = await _late_periods(connection, now)
        if not late:
            return Carried()
        snapshots = await self._snapshots.known(sorted({period.subscription for period in late}))
        done = 0
        needed: set[str] = set()
        for period in late:
            if period.late_policy is LatePolicy.HOLD or period.combination is not Combination.SUM:
                done += await self._hold(period)
                continue
            snapshot = snapshots.get(period.subscription)
            overdue = timedelta(0) if snapshot is None else _overdue(snapshot, now)
            if snapshot is None or overdue:
                needed.add(period.subscription)
                await self._postpone(period, now + max(LOOK_AGAIN, overdue / 2))
                continue
            item = await self._successors.find(period.subscription_item, snapshot, period.records)
            if item is None:
                done += await self._hold(period)
            else:
                increment = snapshot.billing_thresholds or item.billing_thresholds
                done += await self._carry(period, item, increment=increment)
        return Carried(done, frozenset(needed))

    async def _postpone(self, period: LatePeriod, until: datetime) -> None:
        async with transaction(self._engine) as connection:
            await connection.execute(
                text(
                    "update usage_records set due_at = :until "
                    "where id = any(cast(:ids as bigint[])) and state = 'late'"
                ),
                {"until": until, "ids": list(period.records)},
            )

    async def _hold(self, period: LatePeriod) -> int:
        """Hold the records of a period whose difference is not carried."""
        async with transaction(self._engine) as connection:
            await period_store.lock_periods(connection, [period.id])
            await store.lock_lanes(connection, [period.subscription], due_at=None)
            records = await _lock_late(connection, period.records)
            held = [_held(record, PERIOD_CLOSED, _owed(record)) for record in records]
            if held:
                await store.write_records(connection, held)
        _log(held)
        return len(held)

    async def _carry(self, period: LatePeriod, item: SnapshotItem, *, increment: bool) -> int:
        """Carry the differences of a period's late records to the item's current period."""
        now = self._clock.now()
        target = _carry_target(period, item, increment=increment)
        key = RecordKey(item.id, target.timestamp)
        async with transaction(self._engine) as connection:
            opened = await period_store.open_periods(connection, [target], now=now)
            here = opened[PeriodKey(item.id, item.period_start)]
            await period_store.lock_periods(connection, {period.id, here})
            await store.lock_lanes(connection, [period.subscription], due_at=now + self._linger)
            late = await _lock_late(connection, period.records)
            if not late:
                return 0
            await store.add_records(
                connection,
                [NewRecord(key, period.subscription, here, late[-1].svix_id, increment)],
            )
            (there,) = await store.lock_records(connection, [key])
            homes, carries = _carry_all(late, there)
            await store.write_records(connection, homes)
            if carries:
                moved = sum(quantity for _, quantity in carries)
                after = replace(there, carried=there.carried + moved)
                await store.write_records(
                    connection,
                    [
                        changed_record(
                            after,
                            there.wanted + moved,
                            late[-1].svix_id,
                            closed=False,
                            now=now,
                            linger=self._linger,
                        )
                    ],
                )
                await _write_carries(connection, carries, there.id, now)
        _log([home for home in homes if home.state == "held"])
        logger.info(
            "%d units of %s carried forward to %s",
            sum(quantity for _, quantity in carries),
            period.subscription_item,
            item.period_start.isoformat(),
        )
        return len(homes)


def _carry_all(
    late: Iterable[UsageRecord], there: UsageRecord
) -> tuple[list[UsageRecord], list[tuple[UsageRecord, int]]]:
    """The home records after carrying, and each with what was carried from it. Pure."""
    homes: list[UsageRecord] = []
    carries: list[tuple[UsageRecord, int]] = []
    carried_there = there.carried
    for record in late:
        if record.doubtful:
            homes.append(_held(record, OUTCOME_IN_DOUBT, None))
            continue
        quantity = carried_quantity(record.wanted, record.reported, carried_there)
        carried_there += quantity
        if quantity:
            carries.append((record, quantity))
        home = replace(record, wanted=record.wanted - quantity, carried=record.carried - quantity)
        if home.wanted == home.reported:
            homes.append(replace(home, state="reported", due_at=None, unsent_since=None))
        else:
            homes.append(_held(home, CREDIT_DUE, _owed(home)))
    return homes, carries


def _held(record: UsageRecord, reason: str, detail: str | None) -> UsageRecord:
    return replace(record, state="held", reason=reason, detail=detail, due_at=None)


def _owed(record: UsageRecord) -> str:
    difference = record.wanted - record.reported
    what = "more than Stripe took" if difference > 0 else "were billed too much"
    return f"{abs(difference)} units {what}"


def _log(held: Iterable[UsageRecord]) -> None:
    for record in held:
        logger.warning("usage record %d is held: %s (%s)", record.id, record.reason, record.detail)


def _overdue(snapshot: SubscriptionSnapshot, now: datetime) -> timedelta:
    """For how long the snapshot's period is over: the one that takes the carry is not in it."""
    if snapshot.status in ENDED:
        return timedelta(0)
    return max([timedelta(0), *(now - item.period_end for item in snapshot.items)])


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


async def _late_periods(connection: AsyncConnection, now: datetime) -> list[LatePeriod]:
    rows = await connection.execute(
        text(
            """
            select p.id, p.subscription, p.subscription_item, p.combination, p.late_policy,
                   p.rounding, array_agg(r.id order by r.id) as records
            from (select id, item_period_id from usage_records
                  where state = 'late' and due_at <= :now order by due_at, id limit :limit) r
            join item_periods p on p.id = r.item_period_id
            group by p.id order by p.id
            """
        ),
        {"now": now, "limit": RECORDS_AT_ONCE},
    )
    return [
        LatePeriod(
            row.id,
            row.subscription,
            row.subscription_item,
            Combination(row.combination),
            LatePolicy(row.late_policy),
            Rounding(row.rounding),
            tuple(row.records),
        )
        for row in rows
    ]


async def _lock_late(connection: AsyncConnection, ids: Sequence[int]) -> list[UsageRecord]:
    """Lock those of some records that are still late and owe no answer."""
    records = await store.lock_records_by_id(connection, ids)
    return [record for record in records if record.state == "late" and not record.unsettled]


async def _write_carries(
    connection: AsyncConnection,
    carries: Sequence[tuple[UsageRecord, int]],
    to_record_id: int,
    now: datetime,
) -> None:
    await connection.execute(
        text(
            """
            insert into carries (from_record_id, to_record_id, quantity, svix_id, carried_at)
            select t.record, :to_record, t.quantity, t.svix_id, :now
            from unnest(cast(:records as bigint[]), cast(:quantities as numeric[]),
                        cast(:svix_ids as text[])) as t (record, quantity, svix_id)
            """
        ),
        {
            "to_record": to_record_id,
            "now": now,
            "records": [record.id for record, _ in carries],
            "quantities": [Decimal(quantity) for _, quantity in carries],
            "svix_ids": [record.svix_id for record, _ in carries],
        },
    )
