"""The lanes of subscriptions in the database: lease, renew, release. SQL only, in whole batches.

A lane's lease lets one worker, and so one POST at a time, through. The locks of sending, in their
order: the line's row, lanes by name, records.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import text
from app.dispatch.records import ClaimedRecord
from app.driver import fetch

# A killed worker's lanes are free after this many seconds; a living one renews them every second.
LEASE = 4.0
# Until a period's end, and after it, turns of its records are given first. After it Stripe may take
# them for some minutes more; an hour later they are late, whoever goes first.
URGENT_BEFORE = timedelta(hours=1)
URGENT_AFTER = timedelta(hours=1)
# Of what a claim takes at most so much goes to those: the others still get on.
URGENT_SHARE = 0.75
# A lane that is due and not leased, and that was passed over: somebody has locked it just now.
LOCKED_PATIENCE = 0.05


# Those of some subscriptions whose lease is the one of as many tokens.
_HELD = """
    subscription_lanes l
    join unnest(cast($1 as text[]), cast($2 as uuid[])) as t (subscription, token)
        on l.subscription = t.subscription and l.lease_token = t.token
"""


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
class Claim:
    """What a claim found: whether the line is stopped, and the lanes that were leased.

    `leased`: name -> token. `next_look`: in so many seconds there may be a lane to claim, if there
    will be one; None also where there may be more at once.
    """

    stopped: bool
    leased: dict[str, UUID]
    next_look: float | None


_CLAIM = """
    with line as materialized (select stopped from stripe_line where id = 1),
    soon as materialized (
        select subscription, due_at from subscription_lanes
        where due_at <= $1 and period_end between $2 and $3
          and (leased_until is null or leased_until < clock_timestamp())
          and ($8 or not (select stopped from line))
        order by period_end, due_at limit $5 for update skip locked),
    longest as materialized (
        select subscription, due_at, leased_until > clock_timestamp() as ahead
        from subscription_lanes
        where due_at <= $1
          and (leased_until is null or leased_until < clock_timestamp()
               or leased_until > clock_timestamp() + make_interval(secs => 2 * cast($7 as float8)))
          and ($8 or not (select stopped from line))
        order by due_at limit $4 for update skip locked),
    free as materialized (
        select subscription, ahead is true as ahead from (
            select subscription, due_at, false as ahead, 1 as queue from soon
            union all
            select subscription, due_at, ahead, 2 from longest
            where subscription not in (select subscription from soon)) as found
        order by queue, due_at limit $4),
    leased as (
        update subscription_lanes l set
            lease_token = case when ahead then l.lease_token else gen_random_uuid() end,
            leased_by = case when ahead then l.leased_by else $6 end,
            leased_until = clock_timestamp() + make_interval(secs => cast($7 as float8))
        from free where l.subscription = free.subscription
        returning l.subscription, l.lease_token, ahead),
    -- A lane falls due, or the lease of one that is due ends: its worker may have been killed.
    next as materialized (
        select least(
            (select extract(epoch from min(due_at) - $1) from subscription_lanes
             where due_at > $1),
            (select least(greatest(min(ends), $9), $7) from subscription_lanes,
                 coalesce(extract(epoch from leased_until - clock_timestamp())::float8, 0) as ends
             where due_at <= $1
               and subscription not in (select subscription from free where not ahead)
             having min(ends) is not null)
        )::float8 as look
        -- Of a stopped line nothing is free, and all that is due would be gone through.
        where not (select stopped from line) and (select count(*) from free) < $4)
    select (select stopped from line) as stopped, (select look from next) as next_look,
           leased.subscription, leased.lease_token
    from (values (1)) as always left join leased on not leased.ahead
"""


async def claim_lanes(
    connection: AsyncConnection,
    *,
    now: datetime,
    worker: str,
    limit: int,
    urgent: int = 0,
    probe: bool = False,
) -> Claim:
    """Lease lanes where something is due, those that waited longest first.

    None where the line is stopped, unless it is to be `probe`d. Of `limit` lanes up to `urgent` are
    those whose billing period ends soonest. A lease that ends later than any can (the database's
    clock was set back) is cut to one of now, and stays with its holder, who may live.
    """
    rows = await fetch(
        connection,
        _CLAIM,
        now,
        now - URGENT_AFTER,
        now + URGENT_BEFORE,
        limit,
        urgent,
        worker,
        LEASE,
        probe,
        LOCKED_PATIENCE,
    )
    return Claim(
        rows[0]["stopped"],
        {row["subscription"]: row["lease_token"] for row in rows if row["subscription"]},
        rows[0]["next_look"],
    )


@dataclass(frozen=True, slots=True)
class Renewal:
    """What became of leases: those renewed, and those lost to another worker."""

    renewed: frozenset[UUID]
    lost: frozenset[UUID]


_RENEW = f"""
    with mine as (
        select l.subscription from {_HELD} order by l.subscription for update of l skip locked)
    update subscription_lanes l
    set leased_until = clock_timestamp() + make_interval(secs => $3)
    from mine where l.subscription = mine.subscription
    returning l.lease_token
"""  # noqa: S608 - a constant of this module
_STANDING = f"select l.lease_token from {_HELD}"  # noqa: S608 - as above


async def renew(connection: AsyncConnection, held: Mapping[UUID, str]) -> Renewal:
    """Keep the leases of lanes that are still being worked on: token -> subscription.

    A lane that booking has locked just now is passed over until the next time: waiting for one
    must not cost the leases of all.
    """
    names, tokens = list(held.values()), list(held)
    renewed = await fetch(connection, _RENEW, names, tokens, LEASE)
    standing = await fetch(connection, _STANDING, names, tokens)
    return Renewal(
        frozenset(row["lease_token"] for row in renewed),
        frozenset(held).difference(row["lease_token"] for row in standing),
    )


_LOCK = f"{_STANDING} order by l.subscription for update of l"


async def lock_leased(connection: AsyncConnection, lanes: Sequence[Lane]) -> set[UUID]:
    """Lock those lanes whose lease is still ours; returns their tokens. An answer for any other
    is only audited: its record has been, or will be, settled under the same key by the lane's new
    holder (who may be this very process, under another token)."""
    rows = await fetch(
        connection, _LOCK, [lane.subscription for lane in lanes], [lane.token for lane in lanes]
    )
    return {row["lease_token"] for row in rows}


_RELEASE = """
    update subscription_lanes l set lease_token = null, leased_by = null, leased_until = null,
        due_at = case when next.due_at is not null
                      then greatest(next.due_at, cast($2 as timestamptz)) end,
        period_end = coalesce(next.period_end, l.period_end)
    from unnest(cast($1 as text[])) as t (subscription)
    left join lateral (
        select r.due_at, p.period_end
        from usage_records r join item_periods p on p.id = r.item_period_id
        where r.subscription = t.subscription and r.state = 'due'
        order by r.due_at, r.id limit 1) as next on true
    where l.subscription = t.subscription
    returning l.due_at
"""


async def release_lanes(
    connection: AsyncConnection, subscriptions: Collection[str], *, now: datetime | None = None
) -> datetime | None:
    """End the leases of locked lanes; each falls due again with its next due record.

    But not before `now`: a lane with more to send goes behind those that wait already. Returns when
    the first of them falls due again, if any does.
    """
    if not subscriptions:
        return None
    rows = await fetch(connection, _RELEASE, list(subscriptions), now)
    return min((row["due_at"] for row in rows if row["due_at"] is not None), default=None)


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
