"""Series: the windows of one meter, subject and group, and the lock that serialises their booking.

Locks are taken in this order, everywhere: series, windows, item periods, lanes, records. Whoever
waits for series does so before it holds any window; whoever holds windows takes what series are
free, and leaves the windows of the others for a later round.
"""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import text
from app.driver import Statement

# Windows whose series has no row: those of rows that contradict their query and were vouched for,
# and those that were kept before there were series. They are few, and share one lock.
ROWLESS_LOCK = 7_261_946_003


class SeriesKey(NamedTuple):
    """What makes a series."""

    meter: str
    subject: str
    group_key: bytes


class SeriesWindow(NamedTuple):
    """A window as it counts for its series."""

    key: SeriesKey
    group_by: str  # JSON
    aggregation: str
    window_start: datetime
    window_end: datetime


# A locked row that need not change is not written: a correction leaves no dead row behind.
# Of windows that are older than their series' row nobody knows the longest: reports are run by
# minute, hour or day.
_LOCK = Statement(
    """
    insert into usage_series as s (
        meter, subject, group_key, group_by, aggregation, newest_start, newest_end, longest)
    select t.meter, t.subject, t.group_key, cast(t.group_by as jsonb), t.aggregation,
           t.newest_start, t.newest_end,
           case when not exists (
                    select 1 from usage_series k
                    where k.meter = t.meter and k.subject = t.subject
                      and k.group_key = t.group_key)
                 and exists (
                    select 1 from usage_windows w
                    where w.meter = t.meter and w.subject = t.subject
                      and w.group_key = t.group_key)
                then greatest(t.longest, interval '1 day') else t.longest end
    from unnest(
        cast(:meter as text[]), cast(:subject as text[]), cast(:group_key as bytea[]),
        cast(:group_by as text[]), cast(:aggregation as text[]),
        cast(:newest_start as timestamptz[]), cast(:newest_end as timestamptz[]),
        cast(:longest as interval[])
    ) as t (meter, subject, group_key, group_by, aggregation, newest_start, newest_end, longest)
    order by t.meter, t.subject, t.group_key
    on conflict (meter, subject, group_key) do update set
        aggregation = case when excluded.newest_end >= s.newest_end
                           then excluded.aggregation else s.aggregation end,
        newest_start = case when excluded.newest_end > s.newest_end
                            then excluded.newest_start else s.newest_start end,
        newest_end = greatest(s.newest_end, excluded.newest_end),
        longest = greatest(s.longest, excluded.longest)
    where excluded.newest_end > s.newest_end or excluded.longest > s.longest
       or (excluded.newest_end = s.newest_end and excluded.aggregation <> s.aggregation)
    """
)

_HOLD = text(
    """
    with wanted as (
        select * from unnest(
            cast(:meter as text[]), cast(:subject as text[]), cast(:group_key as bytea[])
        ) as t (meter, subject, group_key)),
    held as materialized (
        select meter, subject, group_key, newest_end from usage_series
        where (meter, subject, group_key) in (select meter, subject, group_key from wanted)
        for update skip locked)
    select w.meter, w.subject, w.group_key, h.newest_end, s.meter is null as rowless
    from wanted w
    left join usage_series s using (meter, subject, group_key)
    left join held h using (meter, subject, group_key)
    where h.meter is not null or s.meter is null
    """
)

_MEASURE = text(
    """
    update usage_series s set
        aggregation = n.aggregation, newest_start = n.window_start, newest_end = n.window_end
    from unnest(
        cast(:meter as text[]), cast(:subject as text[]), cast(:group_key as bytea[])
    ) as t (meter, subject, group_key)
    cross join lateral (
        select aggregation, window_start, window_end from usage_windows w
        where w.meter = t.meter and w.subject = t.subject and w.group_key = t.group_key
          and w.source = 'webhook' and not w.subject_contradicts
          and not (w.state = 'parked' and w.usage_record_id is null
                   and w.reason in ('overlaps_window', 'older_than_retention'))
        order by w.window_start desc limit 1) n
    where s.meter = t.meter and s.subject = t.subject and s.group_key = t.group_key
    """
)


async def lock_series(
    connection: AsyncConnection, windows: Iterable[SeriesWindow]
) -> frozenset[SeriesKey]:
    """Lock the series of windows, made where they are new; waits for whoever has them.

    To be called before any window is locked. The series know the newest window's bounds then.
    """
    newest: dict[SeriesKey, SeriesWindow] = {}
    longest: dict[SeriesKey, timedelta] = {}
    for window in windows:
        known = newest.setdefault(window.key, window)
        if (known.window_end, known.window_start) < (window.window_end, window.window_start):
            newest[window.key] = window
        span = window.window_end - window.window_start
        longest[window.key] = max(span, longest.get(window.key, span))
    if newest:
        await _LOCK.fetch(
            connection,
            _columns(list(newest))
            | {
                "group_by": [w.group_by for w in newest.values()],
                "aggregation": [w.aggregation for w in newest.values()],
                "newest_start": [w.window_start for w in newest.values()],
                "newest_end": [w.window_end for w in newest.values()],
                "longest": [longest[key] for key in newest],
            },
        )
    return frozenset(newest)


async def hold_free_series(
    connection: AsyncConnection, keys: Collection[SeriesKey]
) -> dict[SeriesKey, datetime | None]:
    """Lock those series that nobody else has, without waiting: each with its newest window's end.

    None where the series has no row; such series are held together, or not at all.
    """
    if not keys:
        return {}
    rows = (await connection.execute(_HOLD, _columns(list(keys)))).all()
    free: dict[SeriesKey, datetime | None] = {
        SeriesKey(row.meter, row.subject, row.group_key): row.newest_end
        for row in rows
        if not row.rowless
    }
    rowless = [SeriesKey(row.meter, row.subject, row.group_key) for row in rows if row.rowless]
    if rowless and await connection.scalar(
        text("select pg_try_advisory_xact_lock(:key)"), {"key": ROWLESS_LOCK}
    ):
        free |= dict.fromkeys(rowless)
    return free


async def measure_newest(connection: AsyncConnection, keys: Collection[SeriesKey]) -> None:
    """Find the newest window of locked series anew, of those that count."""
    if keys:
        await connection.execute(_MEASURE, _columns(list(keys)))


def _columns(keys: Sequence[SeriesKey]) -> dict[str, list[object]]:
    return {
        "meter": [key.meter for key in keys],
        "subject": [key.subject for key in keys],
        "group_key": [key.group_key for key in keys],
    }
