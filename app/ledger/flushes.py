"""Flushes in the database: subscriptions claimed, series found and locked, what was asked written.

A series is locked and looked at again before a provisional window is written: what a delivery has
told meanwhile is not written beside it.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final, NamedTuple

from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import text
from app.ledger.series import SeriesKey
from app.mapping.resolve import period_second

SUBSCRIPTIONS_AT_ONCE = 20
# Who flushes may be killed: another one does it after this.
LEASE = timedelta(seconds=30)


class Asked(NamedTuple):
    """What one question is about: all groups of a meter and subject."""

    meter: str
    subject: str


@dataclass(frozen=True, slots=True)
class Series:
    """A series of a subscription, and up to where its usage is told by windows."""

    key: SeriesKey
    group_by: dict[str, str]
    aggregation: str
    newest_end: datetime


@dataclass(frozen=True, slots=True)
class Provisional:
    """What a series has in [start, end), a period's last part, as far as it is known by now.

    `told_until`: up to where deliveries told the meter and subject when it was asked for. `second`:
    that of its record, where it has none yet.
    """

    key: SeriesKey
    group_by: str  # JSON
    aggregation: str
    start: datetime
    end: datetime
    told_until: datetime
    second: int
    value: Decimal


@dataclass(frozen=True, slots=True)
class Standing:
    """A provisional window that is there already: from where, and of which groups (JSON)."""

    start: datetime
    group_by: str


CLAIM: Final = """
    update subscription_snapshots set flush_at = cast(:now as timestamptz) + :lease
    where subscription in (
        select subscription from subscription_snapshots
        where flush_at <= :now order by flush_at limit :limit for update skip locked)
    returning subscription
"""


async def claim(connection: AsyncConnection, now: datetime) -> list[str]:
    """Subscriptions to be flushed now; nobody else flushes them until the lease ends."""
    rows = await connection.execute(
        text(CLAIM), {"now": now, "lease": LEASE, "limit": SUBSCRIPTIONS_AT_ONCE}
    )
    return list(rows.scalars())


async def plan(connection: AsyncConnection, subscription: str, at: datetime | None) -> None:
    """Flush a subscription at that time; None: not any more."""
    await connection.execute(
        text("update subscription_snapshots set flush_at = :at where subscription = :subscription"),
        {"at": at, "subscription": subscription},
    )


async def series_of(connection: AsyncConnection, subscription: str, ends: datetime) -> list[Series]:
    """The series of the subjects that are mapped to a subscription when its period ends."""
    rows = await connection.execute(
        text(
            """
            select s.meter, s.subject, s.group_key, s.group_by, s.aggregation, s.newest_end
            from subject_mappings m join usage_series s on s.subject = m.subject
            where m.subscription = :subscription
              and (m.valid_from is null or m.valid_from < :ends)
              and (m.valid_to is null or m.valid_to >= :ends)
            order by s.meter, s.subject, s.group_key
            """
        ),
        {"subscription": subscription, "ends": ends},
    )
    return [
        Series(
            SeriesKey(row.meter, row.subject, row.group_key),
            row.group_by,
            row.aggregation,
            row.newest_end,
        )
        for row in rows
    ]


async def standing_starts(
    connection: AsyncConnection, asked: Collection[Asked], ends: datetime
) -> dict[SeriesKey, Standing]:
    """The provisional windows up to a period's end."""
    rows = await connection.execute(
        text(
            """
            select f.meter, f.subject, f.group_key, min(f.window_start) as window_start,
                   min(f.group_by::text) as group_by
            from unnest(cast(:meters as text[]), cast(:subjects as text[])) as t (meter, subject)
            join usage_windows f on f.source = 'flush' and f.meter = t.meter
                and f.subject = t.subject and f.window_end = :ends
                and (f.state <> 'covered' or f.reason = 'whole_period')
            group by 1, 2, 3
            """
        ),
        {
            "meters": [one.meter for one in asked],
            "subjects": [one.subject for one in asked],
            "ends": ends,
        },
    )
    return {
        SeriesKey(row.meter, row.subject, row.group_key): Standing(row.window_start, row.group_by)
        for row in rows
    }


async def lock_told(
    connection: AsyncConnection, asked: Asked, found: Sequence[Provisional]
) -> datetime | None:
    """Lock all series of a meter and subject; up to where their windows tell.

    A group that no window told yet becomes a series here: so that its first window, wherever it is
    being booked now, is waited for, or waits.
    """
    await connection.execute(
        _LOCK,
        {
            **asked._asdict(),
            "group_keys": [one.key.group_key for one in found],
            "group_bys": [one.group_by for one in found],
            "aggregations": [one.aggregation for one in found],
            "told": [one.told_until for one in found],
        },
    )
    rows = await connection.execute(
        text("select newest_end from usage_series where meter = :meter and subject = :subject"),
        asked._asdict(),
    )
    return max(rows.scalars(), default=None)


# New ones and those that are there in one statement, in the order in which booking takes them: who
# had made a new one, and then waited for another, waited in a circle. What is there is locked, too,
# although nothing of it is written.
_LOCK: Final = text(
    """
    insert into usage_series as s (
        meter, subject, group_key, group_by, aggregation, newest_start, newest_end)
    select :meter, :subject, group_key, group_by, aggregation, newest_start, newest_end
    from (
        select group_key, group_by, aggregation, newest_start, newest_end
        from usage_series where meter = :meter and subject = :subject
        union all
        select t.group_key, cast(t.group_by as jsonb), t.aggregation, t.told, t.told
        from unnest(cast(:group_keys as bytea[]), cast(:group_bys as text[]),
                    cast(:aggregations as text[]), cast(:told as timestamptz[]))
            as t (group_key, group_by, aggregation, told)
        where not exists (
            select 1 from usage_series k
            where k.meter = :meter and k.subject = :subject and k.group_key = t.group_key)
    ) as wanted
    order by group_key
    on conflict (meter, subject, group_key) do update set newest_end = s.newest_end where false
    """
)


async def write(connection: AsyncConnection, one: Provisional, now: datetime) -> int:
    """Insert or revise a provisional window; what a delivery told stands. Returns 1 or 0.

    One that a whole period's window covers has that asked for again.
    """
    result = await connection.execute(
        text(
            """
            insert into usage_windows as w (
                meter, subject, group_key, group_by, window_start, window_end, aggregation, value,
                source, svix_id, message_at, state, record_at)
            values (:meter, :subject, :group_key, cast(:group_by as jsonb), :start, :end,
                    :aggregation, :value, 'flush', :svix_id, :now, 'pending', :second)
            on conflict (meter, subject, group_key, window_start, window_end) do update set
                value = excluded.value, svix_id = excluded.svix_id,
                message_at = excluded.message_at,
                revision = w.revision + 1, state = 'pending', reason = null, detail = null,
                retry_at = null
            where w.source = 'flush'
              and (w.state <> 'covered' and w.value <> excluded.value or w.reason = 'whole_period')
            """
        ),
        {
            **one.key._asdict(),
            "group_by": one.group_by,
            "start": one.start,
            "end": one.end,
            "aggregation": one.aggregation,
            "value": one.value,
            "svix_id": f"query-{period_second(now)}",
            "now": now,
            "second": one.second,
        },
    )
    return result.rowcount
