"""The pace in the database: one row for an account and mode, by the database's clock. SQL only.

Replicas lease instants ("slots") at which one call each may leave, a few at a time. No instant is
leased twice, so the rate holds over any number of replicas; what a replica that dies has leased
passes unused.

That clock may be set back: by an hour, after a failover to a host whose clock is wrong. What stands
further ahead than it can then counts for as much as it can.
"""

from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import text
from app.dispatch.decide import LONGEST_RETRY_AFTER
from app.driver import fetch

# Seconds: the longest pause, and a minute for slots behind it (a hundred replicas lease one each).
FURTHEST_AHEAD = LONGEST_RETRY_AFTER + 60.0


@dataclass(frozen=True, slots=True)
class PaceLimits:
    """Whose pace, where it begins, and between what it stays: in calls a second."""

    account: str
    start: float
    ceiling: float
    floor: float


@dataclass(frozen=True, slots=True)
class Lease:
    """Slots of a rate (calls a second). `first`: when the first is, and `at`: when they were
    leased, both in seconds of the database's clock."""

    rate: float
    first: float
    at: float

    @property
    def wait(self) -> float:
        """Seconds from leasing to the first slot."""
        return self.first - self.at


async def begin_pace(connection: AsyncConnection, limits: PaceLimits) -> None:
    """Make the row where it is missing. A changed setting begins anew; otherwise what Stripe has
    taught stays, also when all replicas start again."""
    await connection.execute(
        text(
            """
            insert into stripe_pace as p (account, rate, set_rate, next_at)
            values (:account, :start, :start, clock_timestamp())
            on conflict (account) do update set rate = excluded.rate, set_rate = excluded.set_rate
            where p.set_rate <> excluded.set_rate
            """
        ),
        {"account": limits.account, "start": limits.start},
    )


_LEASE = """
    with pace as (
        select account, greatest(least(rate, $2), $3) as rate,
               next_at > clock_timestamp() as busy,
               greatest(
                   least(next_at, clock_timestamp() + make_interval(secs => $9))
                       + make_interval(secs => $6),
                   clock_timestamp() + make_interval(secs => $8)) as first
        from stripe_pace where account = $1 for update),
    -- What a crash of the server may undo is half a second of the pace, and no money.
    quick as (select set_config('synchronous_commit', 'off', true))
    update stripe_pace p set
        rate = case when busy then least(pace.rate + $7, $2) else pace.rate end,
        next_at = first + make_interval(secs => $4 / (pace.rate * $5))
    from pace, quick where p.account = pace.account
    returning pace.rate, extract(epoch from first)::float8 as first,
              extract(epoch from clock_timestamp())::float8 as at
"""


async def lease_slots(
    connection: AsyncConnection,
    limits: PaceLimits,
    *,
    slots: int,
    margin: float,
    late: float,
    raised: float,
    lead: float,
) -> Lease | None:
    """Lease the next slots; None where there is no row.

    They lie `1 / (rate * margin)` seconds apart, `late` seconds after those before them, and not
    within `lead` seconds from now: so long the answer takes. While all that was leased is used the
    rate rises by `raised`.
    """
    rows = await fetch(
        connection,
        _LEASE,
        limits.account,
        limits.ceiling,
        limits.floor,
        float(slots),
        margin,
        late,
        raised,
        lead,
        FURTHEST_AHEAD,
    )
    return Lease(**rows[0]) if rows else None


async def slow_down(
    connection: AsyncConnection, limits: PaceLimits, *, pause: float, halve: bool, age: float
) -> float | None:
    """Lease nothing for `pause` seconds, and `halve` the rate. Returns the rate, if it was halved.

    `age` is how many seconds ago the refused call left: of all that were in flight at once, only
    the first halves it.
    """
    halved: float | None = await connection.scalar(
        text(
            """
            with slower as (
                update stripe_pace set rate = greatest(least(rate, :ceiling) / 2, :floor),
                    slowed_at = clock_timestamp()
                where account = :account and :halve
                  and (slowed_at is null
                       or slowed_at < clock_timestamp() - make_interval(secs => :age)
                       or slowed_at > clock_timestamp())
                returning rate)
            select rate from slower
            """
        ),
        {
            "account": limits.account,
            "ceiling": limits.ceiling,
            "floor": limits.floor,
            "halve": halve,
            "age": age,
        },
    )
    await connection.execute(
        text(
            """
            update stripe_pace
            set next_at = greatest(next_at, clock_timestamp() + make_interval(secs => :pause))
            where account = :account
            """
        ),
        {"account": limits.account, "pause": pause},
    )
    return halved
