"""Increments in doubt in the database: look, settle. SQL only.

While an item is compared its subscription's lane is leased, so that nothing of it is in flight.
The locks are those of sending: lanes, then records.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import text
from app.dispatch.comparing import OpenRecord
from app.dispatch.reasons import HoldReason

# Longer than a read takes. A worker that dies meanwhile keeps its subscription waiting this long.
LOOK_LEASE = 60.0
# Seconds. Reads are rationed at Stripe: 60 s, 10, 20, 40 minutes ... a day; twelve in five days.
FIRST_PACE = 600.0
LONGEST_PACE = 86_400.0
MOST_COMPARISONS = 12
ITEMS_AT_ONCE = 20


@dataclass(frozen=True, slots=True)
class DoubtfulItem:
    """An item with an increment in doubt that is to be looked at."""

    subscription: str
    subscription_item: str


@dataclass(frozen=True, slots=True)
class Look:
    """An item under comparison: the lease of its lane, and what was outstanding at the start."""

    item: DoubtfulItem
    token: UUID
    opened: tuple[OpenRecord, ...]


@dataclass(frozen=True, slots=True)
class Settled:
    """A record whose increment is in doubt no more."""

    id: int
    subscription: str
    executed: bool
    reported: int
    state: str


async def items_to_look_at(connection: AsyncConnection, *, now: datetime) -> list[DoubtfulItem]:
    """Items with something in doubt whose time has come, and nothing that is still too fresh."""
    rows = await connection.execute(
        text(
            """
            select r.subscription, r.subscription_item from usage_records r
            where r.compare_at <= :now and r.state = 'held' and r.reason = :in_doubt
              and not exists (
                  select from usage_records fresh
                  where fresh.subscription_item = r.subscription_item
                    and fresh.comparisons = 0 and fresh.compare_at > :now)
            group by r.subscription, r.subscription_item order by min(r.compare_at) limit :limit
            """
        ),
        {"now": now, "in_doubt": HoldReason.IN_DOUBT.value, "limit": ITEMS_AT_ONCE},
    )
    return [DoubtfulItem(*row) for row in rows]


async def begin_look(
    connection: AsyncConnection, item: DoubtfulItem, *, now: datetime, worker: str
) -> Look | None:
    """Lease the item's lane and count the comparison; None where somebody else is at work."""
    token: UUID | None = await connection.scalar(
        text(
            """
            with free as (
                select subscription from subscription_lanes
                where subscription = :subscription
                  and (leased_until is null or leased_until < clock_timestamp())
                for update skip locked)
            update subscription_lanes l set lease_token = gen_random_uuid(), leased_by = :worker,
                leased_until = clock_timestamp() + make_interval(secs => :lease)
            from free where l.subscription = free.subscription
            returning l.lease_token
            """
        ),
        {"subscription": item.subscription, "worker": worker, "lease": LOOK_LEASE},
    )
    if token is None:
        return None
    await connection.execute(
        text(
            """
            update usage_records set comparisons = comparisons + 1,
                compare_at = case when comparisons + 1 < :most then
                    cast(:now as timestamptz) + make_interval(secs => least(
                        :pace * power(2, comparisons), :longest)) end
            where subscription_item = :item and compare_at <= :now
              and state = 'held' and reason = :in_doubt
            """
        ),
        {
            "most": MOST_COMPARISONS,
            "now": now,
            "pace": FIRST_PACE,
            "longest": LONGEST_PACE,
            "item": item.subscription_item,
            "in_doubt": HoldReason.IN_DOUBT.value,
        },
    )
    return Look(item, token, await _opened(connection, item))


async def resume_look(connection: AsyncConnection, look: Look) -> bool:
    """Lock the lane; whether nothing of the item was attempted or settled since `begin_look`."""
    return await still_leased(connection, look) and (
        await _opened(connection, look.item) == look.opened
    )


async def still_leased(connection: AsyncConnection, look: Look) -> bool:
    """Lock the lane; whether its lease is still that of the look."""
    ours = await connection.scalar(
        text(
            """
            select 1 from subscription_lanes
            where subscription = :subscription and lease_token = :token for update
            """
        ),
        {"subscription": look.item.subscription, "token": look.token},
    )
    return ours is not None


async def _opened(connection: AsyncConnection, item: DoubtfulItem) -> tuple[OpenRecord, ...]:
    rows = await connection.execute(
        text(
            """
            select r.id, r.timestamp, r.sent_key,
                   case when r.state = 'held' and r.reason = :in_doubt and not r.doubtful
                        then r.sent_quantity end as difference,
                   p.combination = 'sum' as summed,
                   (select count(*) from attempts a where a.usage_record_id = r.id) as attempts
            from usage_records r join item_periods p on p.id = r.item_period_id
            where r.subscription_item = :item and (r.sent_key is not null or r.doubtful)
            order by r.id
            """
        ),
        {"item": item.subscription_item, "in_doubt": HoldReason.IN_DOUBT.value},
    )
    return tuple(
        OpenRecord(
            row.id,
            row.timestamp,
            row.sent_key,
            None if row.difference is None else int(row.difference),
            row.summed,
            row.attempts,
        )
        for row in rows
    )


async def reported_between(
    connection: AsyncConnection, item: DoubtfulItem, start: int | None, end: int | None
) -> int:
    """What the ledger knows Stripe to hold on an item after one second and up to another."""
    total = await connection.scalar(
        text(
            """
            select coalesce(sum(reported_quantity), 0) from usage_records
            where subscription_item = :item
              and timestamp > coalesce(cast(:start as bigint), -1)
              and timestamp <= coalesce(cast(:end as bigint), 9223372036854775807)
            """
        ),
        {"item": item.subscription_item, "start": start, "end": end},
    )
    return int(total)


async def settle(
    connection: AsyncConnection, executed: Mapping[int, bool], *, detail: str, now: datetime
) -> list[Settled]:
    """End the doubt of records whose lane is locked: what was executed is reported, what was not is
    due again under another key. Records that are not in doubt are left alone."""
    rows = await connection.execute(
        text(
            """
            with t as (
                select r.id, e.executed, r.timestamp <= p.closed_until as closed,
                       r.reported_quantity
                           + case when e.executed then r.sent_quantity else 0 end as reported
                from unnest(cast(:ids as bigint[]), cast(:executed as boolean[]))
                    as e (id, executed)
                join usage_records r on r.id = e.id and r.state = 'held'
                    and r.reason = :in_doubt and r.sent_key is not null
                join item_periods p on p.id = r.item_period_id
                order by r.id for update of r)
            update usage_records r set
                reported_quantity = t.reported,
                key_suffix = r.key_suffix + (not t.executed)::int,
                sent_key = null, sent_quantity = null, sent_at = null, sent_action = null,
                compare_at = null, comparisons = 0, failures = 0, failed_at = null,
                reason = null, detail = :detail,
                state = case when t.reported = r.wanted_quantity then 'reported'
                             when t.closed then 'late' else 'due' end,
                due_at = case when t.reported <> r.wanted_quantity
                              then cast(:now as timestamptz) end,
                unsent_since = case when t.reported <> r.wanted_quantity
                                    then coalesce(r.unsent_since, :now) end
            from t where r.id = t.id
            returning r.id, r.subscription, t.executed, r.reported_quantity, r.state
            """
        ),
        {
            "ids": list(executed),
            "executed": list(executed.values()),
            "in_doubt": HoldReason.IN_DOUBT.value,
            "detail": detail[:500],
            "now": now,
        },
    )
    return [
        Settled(row.id, row.subscription, row.executed, int(row.reported_quantity), row.state)
        for row in rows
    ]


async def explain_doubt(connection: AsyncConnection, details: Mapping[int, str]) -> None:
    """Write on records in doubt why a comparison did not tell."""
    await connection.execute(
        text(
            """
            update usage_records r set detail = t.detail
            from unnest(cast(:ids as bigint[]), cast(:details as text[])) as t (id, detail)
            where r.id = t.id and r.state = 'held' and r.reason = :in_doubt
            """
        ),
        {
            "ids": list(details),
            "details": [detail[:500] for detail in details.values()],
            "in_doubt": HoldReason.IN_DOUBT.value,
        },
    )


async def settle_doubt(
    connection: AsyncConnection, record_id: int, *, executed: bool, now: datetime
) -> Settled | None:
    """Settle a record as an operator says; None where no such record is in doubt."""
    subscription = await connection.scalar(
        text("select subscription from usage_records where id = :id"), {"id": record_id}
    )
    await connection.execute(
        text(
            "update subscription_lanes set due_at = least(due_at, cast(:now as timestamptz)) "
            "where subscription = :subscription"
        ),
        {"subscription": subscription, "now": now},
    )
    word = "executed" if executed else "not executed"
    found = await settle(
        connection, {record_id: executed}, detail=f"settled by hand: {word}", now=now
    )
    return found[0] if found else None


async def raise_again(connection: AsyncConnection, *, now: datetime) -> int:
    """Send on where more is owed again than stands at Stripe. Returns how many records."""
    raised = await connection.execute(
        text(
            """
            with risen as (
                select id, subscription, item_period_id from usage_records
                where state = 'held' and reason = :negative
                  and wanted_quantity > reported_quantity limit 500),
            lanes as (
                insert into subscription_lanes as l (subscription, due_at)
                select distinct subscription, cast(:now as timestamptz) from risen order by 1
                on conflict (subscription) do update set due_at = least(l.due_at, excluded.due_at)
                returning subscription)
            update usage_records r set reason = null, detail = null, due_at = :now,
                state = case when r.timestamp <= p.closed_until then 'late' else 'due' end,
                unsent_since = coalesce(r.unsent_since, :now)
            from risen join lanes using (subscription)
            join item_periods p on p.id = risen.item_period_id
            where r.id = risen.id and r.state = 'held' and r.reason = :negative
              and r.wanted_quantity > r.reported_quantity
            """
        ),
        {"negative": HoldReason.NEGATIVE_INCREMENT.value, "now": now},
    )
    return raised.rowcount
