"""Late records in the database: found, locked, postponed; and what was carried from them. SQL only.

The locks are those of booking: item periods, lanes, records.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import text
from app.ledger import records as store
from app.ledger.records import UsageRecord
from app.mapping.models import Combination, LatePolicy, Rounding


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


@dataclass(frozen=True, slots=True)
class Carry:
    """So many units went from a record (below zero: came back to it)."""

    home: UsageRecord
    quantity: int


async def late_periods(
    connection: AsyncConnection, now: datetime, *, limit: int
) -> list[LatePeriod]:
    """The item periods of late records whose time has come."""
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
        {"now": now, "limit": limit},
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


async def postpone(connection: AsyncConnection, period: LatePeriod, until: datetime) -> None:
    """Look at a period's late records later."""
    await connection.execute(
        text(
            """
            update usage_records set due_at = :until where id in (
                select id from usage_records
                where id = any(cast(:ids as bigint[])) and state = 'late'
                order by id for update)
            """
        ),
        {"until": until, "ids": list(period.records)},
    )


async def lock_late(connection: AsyncConnection, ids: Sequence[int]) -> list[UsageRecord]:
    """Lock those of some records that are still late and owe no answer."""
    records = await store.lock_records_by_id(connection, ids)
    return [record for record in records if record.state == "late" and not record.unsettled]


async def write_carries(
    connection: AsyncConnection,
    carries: Sequence[Carry],
    to_record_id: int,
    now: datetime,
) -> None:
    """Add to what was carried to a record."""
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
            "records": [carry.home.id for carry in carries],
            "quantities": [Decimal(carry.quantity) for carry in carries],
            "svix_ids": [carry.home.svix_id for carry in carries],
        },
    )
