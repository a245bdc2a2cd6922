"""The lanes of subscriptions in the database: lease, renew, release. SQL only, in whole batches.

A lane's lease lets one worker, and so one POST at a time, through. The locks of sending, in their
order: the line's row, lanes by name, records.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.dispatch.records import ClaimedRecord

# A killed worker's lanes are free after this many seconds; a living one renews them.
LEASE = 5.0


@dataclass(frozen=True, slots=True)
class Lane:
    """A leased subscription and its due records, oldest first.

    `probe`: the line is stopped, and this lane is what it is tried with.
    """

    subscription: str
    token: UUID
    records: tuple[ClaimedRecord, ...]
    probe: bool = False


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


@dataclass(frozen=True, slots=True)
class Renewal:
    """What became of leases: those renewed, and those lost to another worker."""

    renewed: frozenset[UUID]
    lost: frozenset[UUID]


async def renew(connection: AsyncConnection, tokens: Collection[UUID]) -> Renewal:
    """Keep the leases of lanes that are still being worked on.

    A lane that booking has locked just now is passed over until the next time: waiting for one
    must not cost the leases of all.
    """
    renewed = await connection.execute(
        text(
            """
            with mine as (
                select subscription from subscription_lanes
                where lease_token = any(cast(:tokens as uuid[]))
                order by subscription for update skip locked)
            update subscription_lanes l
            set leased_until = clock_timestamp() + make_interval(secs => :lease)
            from mine where l.subscription = mine.subscription
            returning l.lease_token
            """
        ),
        {"tokens": list(tokens), "lease": LEASE},
    )
    standing = await connection.execute(
        text(
            "select lease_token from subscription_lanes "
            "where lease_token = any(cast(:tokens as uuid[]))"
        ),
        {"tokens": list(tokens)},
    )
    return Renewal(frozenset(renewed.scalars()), frozenset(tokens).difference(standing.scalars()))


async def lock_leased(connection: AsyncConnection, lanes: Sequence[Lane]) -> set[UUID]:
    """Lock those lanes whose lease is still ours; returns their tokens. An answer for any other
    is only audited: its record has been, or will be, settled under the same key by the lane's new
    holder (who may be this very process, under another token)."""
    rows = await connection.execute(
        text(
            """
            select l.lease_token from subscription_lanes l
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
    return {row.lease_token for row in rows}


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
            with mine as (
                select subscription from subscription_lanes where leased_by = :worker
                order by subscription for update)
            update subscription_lanes l
            set lease_token = null, leased_by = null, leased_until = null
            from mine where l.subscription = mine.subscription
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
