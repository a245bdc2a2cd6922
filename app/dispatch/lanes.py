"""Lanes and due records in the database: claim, renew, write down. SQL only, in whole batches.

A lane's lease lets one worker send for a subscription. What a claim writes on each record (key and
quantity of the POST that is about to leave) makes the POST repeatable: whoever comes next settles
it with the same key and quantity before anything newer, so a lost answer is asked for again and
never doubled. The locks: the line's row, lanes, records.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.dispatch.keys import idempotency_key

# A killed worker's lanes are free after this many seconds; a living one renews them.
LEASE = 5.0
RECORDS_PER_LANE = 5


@dataclass(frozen=True, slots=True)
class ClaimedRecord:
    """A record and the POST that is to be made for it."""

    id: int
    subscription: str
    subscription_item: str
    timestamp: int
    key: str
    quantity: int
    key_suffix: int
    failures: int
    failed_at: datetime | None


@dataclass(frozen=True, slots=True)
class Lane:
    """A leased subscription and its due records, oldest first.

    `probe`: the line is stopped, and this lane is what it is tried with.
    """

    subscription: str
    token: UUID
    records: tuple[ClaimedRecord, ...]
    probe: bool = False


@dataclass(frozen=True, slots=True)
class WrittenAttempt:
    """One attempt as it goes into the audit trail."""

    record: ClaimedRecord
    started_at: datetime
    finished_at: datetime
    outcome: str
    problem: str | None
    http_status: int | None
    message: str | None
    request_id: str | None
    replayed: bool


@dataclass(frozen=True, slots=True)
class RecordUpdate:
    """What an attempt changes on its record.

    `reported`: the quantity that Stripe confirmed. `settled`: no answer is outstanding any more.
    `key`: the key that the next attempt must use where the POST is still to be settled.
    """

    id: int
    reported: int | None = None
    settled: bool = False
    held: str | None = None
    detail: str | None = None
    retry_at: datetime | None = None
    counted: bool = False
    failed_at: datetime | None = None
    key: str | None = None


async def claim_lanes(
    connection: AsyncConnection, *, now: datetime, worker: str, limit: int
) -> dict[str, UUID]:
    """Lease lanes where something is due, those that waited longest first: name -> token."""
    rows = await connection.execute(
        text(
            """
            with free as (
                select subscription from subscription_lanes
                where due_at <= :now
                  and (leased_until is null or leased_until < clock_timestamp())
                order by due_at limit :limit for update skip locked)
            update subscription_lanes l set lease_token = gen_random_uuid(), leased_by = :worker,
                leased_until = clock_timestamp() + make_interval(secs => :lease)
            from free where l.subscription = free.subscription
            returning l.subscription, l.lease_token
            """
        ),
        {"now": now, "worker": worker, "limit": limit, "lease": LEASE},
    )
    return {row.subscription: row.lease_token for row in rows}


async def claim_records(
    connection: AsyncConnection, subscriptions: Collection[str], *, now: datetime, per_lane: int
) -> list[ClaimedRecord]:
    """The due records of leased lanes; writes down which POST is about to leave for each."""
    rows = (
        await connection.execute(
            text(
                """
                select r.id, r.subscription, r.subscription_item, r.timestamp, r.svix_id,
                       r.revision, r.wanted_quantity, r.sent_key, r.sent_quantity, r.key_suffix,
                       r.failures, r.failed_at
                from unnest(cast(:subscriptions as text[])) as lane (subscription)
                cross join lateral (
                    select * from usage_records
                    where subscription = lane.subscription and state = 'due' and due_at <= :now
                    order by due_at, id limit :per_lane
                ) as r
                order by r.subscription, r.due_at, r.id
                """
            ),
            {"subscriptions": list(subscriptions), "now": now, "per_lane": per_lane},
        )
    ).all()
    claimed = [_claimed(row) for row in rows]
    if claimed:
        await connection.execute(
            text(
                """
                update usage_records r set sent_key = t.key, sent_quantity = t.quantity,
                    sent_at = :now
                from unnest(cast(:ids as bigint[]), cast(:keys as text[]),
                            cast(:quantities as numeric[])) as t (id, key, quantity)
                where r.id = t.id
                """
            ),
            {
                "now": now,
                "ids": [record.id for record in claimed],
                "keys": [record.key for record in claimed],
                "quantities": [Decimal(record.quantity) for record in claimed],
            },
        )
    return claimed


def _claimed(row: Row[Any]) -> ClaimedRecord:
    unsettled = row.sent_key is not None
    quantity = int(row.sent_quantity if unsettled else row.wanted_quantity)
    key = row.sent_key or idempotency_key(
        row.svix_id, row.subscription_item, row.timestamp, row.revision, quantity
    )
    return ClaimedRecord(
        row.id,
        row.subscription,
        row.subscription_item,
        row.timestamp,
        key,
        quantity,
        row.key_suffix,
        row.failures,
        row.failed_at,
    )


async def renew(connection: AsyncConnection, tokens: Collection[UUID]) -> None:
    """Keep the leases of lanes that are still being worked on."""
    await connection.execute(
        text(
            """
            update subscription_lanes
            set leased_until = clock_timestamp() + make_interval(secs => :lease)
            where lease_token = any(cast(:tokens as uuid[]))
            """
        ),
        {"tokens": list(tokens), "lease": LEASE},
    )


async def lock_leased(connection: AsyncConnection, lanes: Sequence[Lane]) -> set[str]:
    """Lock those lanes whose lease is still ours. An answer for any other is only audited: its
    record has been, or will be, settled under the same key by the lane's new holder."""
    rows = await connection.execute(
        text(
            """
            select l.subscription from subscription_lanes l
            join unnest(cast(:subscriptions as text[]), cast(:tokens as uuid[]))
                as t (subscription, token)
                on l.subscription = t.subscription and l.lease_token = t.token
            order by l.subscription for update of l
            """
        ),
        {
            "subscriptions": [lane.subscription for lane in lanes],
            "tokens": [lane.token for lane in lanes],
        },
    )
    return {row.subscription for row in rows}


async def write_attempts(
    connection: AsyncConnection, attempts: Sequence[WrittenAttempt], *, worker: str
) -> None:
    """Add to the audit trail."""
    await connection.execute(
        text(
            """
            insert into attempts (usage_record_id, idempotency_key, action, quantity, started_at,
                                  finished_at, outcome, problem, http_status, message, request_id,
                                  replayed, worker)
            select t.record, t.key, 'set', t.quantity, t.started, t.finished, t.outcome, t.problem,
                   t.status, t.message, t.request, t.replayed, :worker
            from unnest(cast(:records as bigint[]), cast(:keys as text[]),
                        cast(:quantities as numeric[]), cast(:started as timestamptz[]),
                        cast(:finished as timestamptz[]), cast(:outcomes as text[]),
                        cast(:problems as text[]), cast(:statuses as int[]),
                        cast(:messages as text[]), cast(:requests as text[]),
                        cast(:replayed as boolean[]))
                as t (record, key, quantity, started, finished, outcome, problem, status, message,
                      request, replayed)
            """
        ),
        {
            "worker": worker,
            "records": [a.record.id for a in attempts],
            "keys": [a.record.key for a in attempts],
            "quantities": [Decimal(a.record.quantity) for a in attempts],
            "started": [a.started_at for a in attempts],
            "finished": [a.finished_at for a in attempts],
            "outcomes": [a.outcome for a in attempts],
            "problems": [a.problem for a in attempts],
            "statuses": [a.http_status for a in attempts],
            "messages": [a.message for a in attempts],
            "requests": [a.request_id for a in attempts],
            "replayed": [a.replayed for a in attempts],
        },
    )


async def write_updates(connection: AsyncConnection, updates: Sequence[RecordUpdate]) -> None:
    """Write the outcome of attempts on their records, whose lanes this transaction has locked."""
    await connection.execute(
        text(
            """
            with t as (
                select * from unnest(
                    cast(:ids as bigint[]), cast(:reported as numeric[]),
                    cast(:settled as boolean[]), cast(:held as text[]), cast(:detail as text[]),
                    cast(:retry_at as timestamptz[]), cast(:counted as boolean[]),
                    cast(:failed_at as timestamptz[]), cast(:keys as text[]))
                as u (id, reported, settled, held, detail, retry_at, counted, failed_at, key))
            update usage_records r set
                reported_quantity = coalesce(t.reported, r.reported_quantity),
                sent_key = case when t.settled then null else coalesce(t.key, r.sent_key) end,
                sent_quantity = case when t.settled then null else r.sent_quantity end,
                sent_at = case when t.settled then null else r.sent_at end,
                key_suffix = r.key_suffix + (t.key is not null)::int,
                failures = case when t.reported is not null then 0
                                else r.failures + t.counted::int end,
                failed_at = t.failed_at,
                state = case when t.held is not null then 'held'
                             when t.reported = r.wanted_quantity then 'reported'
                             else 'due' end,
                reason = t.held,
                detail = t.detail,
                due_at = case when t.held is not null or t.reported = r.wanted_quantity then null
                              else greatest(r.due_at, t.retry_at) end,
                unsent_since = case when t.reported = r.wanted_quantity then null
                                    else r.unsent_since end
            from t where r.id = t.id
            """
        ),
        {
            "ids": [u.id for u in updates],
            "reported": [None if u.reported is None else Decimal(u.reported) for u in updates],
            "settled": [u.settled for u in updates],
            "held": [u.held for u in updates],
            "detail": [u.detail for u in updates],
            "retry_at": [u.retry_at for u in updates],
            "counted": [u.counted for u in updates],
            "failed_at": [u.failed_at for u in updates],
            "keys": [u.key for u in updates],
        },
    )


async def release_lanes(connection: AsyncConnection, subscriptions: Collection[str]) -> None:
    """End the leases of locked lanes; each falls due again with its next due record."""
    await connection.execute(
        text(
            """
            update subscription_lanes l set lease_token = null, leased_by = null,
                leased_until = null,
                due_at = (select min(r.due_at) from usage_records r
                          where r.subscription = l.subscription and r.state = 'due')
            where l.subscription = any(cast(:subscriptions as text[]))
            """
        ),
        {"subscriptions": list(subscriptions)},
    )


async def release_all_of(connection: AsyncConnection, worker: str) -> None:
    """End every lease of a worker that stops."""
    await connection.execute(
        text(
            """
            update subscription_lanes
            set lease_token = null, leased_by = null, leased_until = null
            where leased_by = :worker
            """
        ),
        {"worker": worker},
    )


async def next_due(connection: AsyncConnection, now: datetime) -> datetime | None:
    """When the next lane falls due, if any will."""
    found: datetime | None = await connection.scalar(
        text("select min(due_at) from subscription_lanes where due_at > :now"), {"now": now}
    )
    return found
