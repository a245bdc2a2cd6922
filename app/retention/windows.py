"""Windows that are deleted, and what their series remember of them. SQL only.

A series knows up to where windows of it were deleted (`pruned_until`). What begins before that and
is not in the ledger may be one of them, told once more: it is parked, and never booked. The mark is
raised in the transaction that deletes, under the lock of the series, which booking takes, too.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import text
from app.ledger.series import SeriesKey
from app.ledger.windows import ACCEPTED_REASONS, part_key
from app.retention.periods import delete_records, next_records
from app.retention.terms import Batch, Place, Swept


@dataclass(frozen=True, slots=True)
class OldWindow:
    """A window that may be deleted if nothing about it has changed under its locks."""

    id: int
    series: SeriesKey
    window_end: datetime


_COLUMNS: Final = "w.id, w.meter, w.subject, w.group_key, w.source, w.window_end"
_BOOKED: Final = text(
    f"""
    select {_COLUMNS} from usage_windows w
    where w.usage_record_id = any(cast(:records as bigint[])) and w.state = 'booked'
    order by w.usage_record_id, w.id limit :limit
    """  # noqa: S608 - a constant
)
# Of a divided window the parts count, and of a whole period its one window: while these stand, so
# does what they are asked for. A provisional window that was replaced counts for nothing.
_COVERED: Final = text(
    f"""
    select {_COLUMNS}, w.window_end < :before and not exists (
               select 1 from usage_windows part where part.part_of = w.id)
           and not (w.reason = 'whole_period' and exists (
               select 1 from usage_windows whole
               where whole.meter = w.meter and whole.subject = w.subject
                 and whole.source = 'period' and whole.window_end >= :before
                 and whole.window_start < w.window_end)) as old
    from usage_windows w
    where w.state = 'covered' and w.id > :after order by w.id limit :limit
    """  # noqa: S608 - a constant
)


async def prune_periods(connection: AsyncConnection, batch: Batch) -> Swept:
    """Delete some windows and records of pruned item periods."""
    found = await next_records(connection, batch)
    if found is None:
        return Swept(None, {})
    period, records = found
    rows = (await connection.execute(_BOOKED, {"records": records, "limit": batch.limit})).all()
    pruned = await _delete(connection, [_old(row) for row in rows], state="booked")
    if len(rows) < batch.limit:
        pruned |= await delete_records(connection, records)
    # A record that takes another batch is looked at again, unless nothing could be done about it.
    through = len(rows) < batch.limit or not pruned
    return Swept(Place(period, records[-1] if through else records[0] - 1), pruned)


async def prune_covered(connection: AsyncConnection, batch: Batch) -> Swept:
    """Delete old windows in whose place others counted, once these are deleted."""
    named = {"after": batch.after.outer, "before": batch.before, "limit": batch.limit}
    rows = (await connection.execute(_COVERED, named)).all()
    if not rows:
        return Swept(None, {})
    pruned = await _delete(connection, [_old(row) for row in rows if row.old], state="covered")
    return Swept(Place(rows[-1].id), pruned)


def _old(row: Row[Any]) -> OldWindow:
    group_key = part_key(row.group_key) if row.source == "part" else row.group_key
    return OldWindow(row.id, SeriesKey(row.meter, row.subject, group_key), row.window_end)


_LOCK_SERIES: Final = text(
    """
    select meter, subject, group_key from usage_series
    where (meter, subject, group_key) in (
        select * from unnest(
            cast(:meter as text[]), cast(:subject as text[]), cast(:group_key as bytea[])))
    order by meter, subject, group_key for update
    """
)
# What waits for its place is booked whatever was deleted, so it must be found to overlap what is
# billed: a provisional window, or one from before overlaps were looked for.
_LOCK_WINDOWS: Final = text(
    """
    select w.id
    from unnest(cast(:ids as bigint[]), cast(:group_key as bytea[])) as t (id, of_series)
    join usage_windows w on w.id = t.id and w.state = :state
    join usage_series s on s.meter = w.meter and s.subject = w.subject and s.group_key = t.of_series
    where not exists (select 1 from usage_windows part where part.part_of = w.id)
      and not exists (
          select 1 from usage_windows o
          where o.meter = s.meter and o.subject = s.subject and o.group_key = s.group_key
            and o.window_start > coalesce(w.window_start - s.longest, '-infinity')
            and o.window_start < w.window_end and o.window_end > w.window_start
            and o.source = 'webhook' and o.state in ('parked', 'pending')
            and o.usage_record_id is null and o.reason = any(cast(:accepted as text[])))
    order by w.meter, w.subject, w.group_key, w.window_start, w.window_end for update of w
    """
)
_REMEMBER: Final = text(
    """
    update usage_series s set pruned_until = greatest(s.pruned_until, t.until)
    from unnest(
        cast(:meter as text[]), cast(:subject as text[]), cast(:group_key as bytea[]),
        cast(:until as timestamptz[])) as t (meter, subject, group_key, until)
    where s.meter = t.meter and s.subject = t.subject and s.group_key = t.group_key
      and (s.pruned_until is null or s.pruned_until < t.until)
    """
)
_DELETE: Final = {
    "window_revisions": text(
        "delete from window_revisions where usage_window_id = any(cast(:ids as bigint[]))"
    ),
    "usage_windows": text("delete from usage_windows where id = any(cast(:ids as bigint[]))"),
}


async def _delete(
    connection: AsyncConnection, windows: Sequence[OldWindow], *, state: str
) -> dict[str, int]:
    """Delete windows with their history, as far as their series are there to remember them."""
    if not windows:
        return {}
    locked = await _lock_series(connection, {window.series for window in windows})
    mine = {window.id: window for window in windows if window.series in locked}
    still = await connection.execute(
        _LOCK_WINDOWS,
        {
            "ids": list(mine),
            "group_key": [window.series.group_key for window in mine.values()],
            "state": state,
            "accepted": sorted(ACCEPTED_REASONS),
        },
    )
    deleted = [mine[id_] for id_ in still.scalars()]
    if not deleted:
        return {}
    until: dict[SeriesKey, datetime] = {}
    for window in deleted:
        until[window.series] = max(window.window_end, until.get(window.series, window.window_end))
    await connection.execute(_REMEMBER, _columns(until) | {"until": list(until.values())})
    ids = [window.id for window in deleted]
    return {
        table: (await connection.execute(statement, {"ids": ids})).rowcount
        for table, statement in _DELETE.items()
    }


async def _lock_series(connection: AsyncConnection, keys: Iterable[SeriesKey]) -> set[SeriesKey]:
    rows = await connection.execute(_LOCK_SERIES, _columns(keys))
    return {SeriesKey(row.meter, row.subject, row.group_key) for row in rows}


def _columns(keys: Iterable[SeriesKey]) -> dict[str, list[Any]]:
    listed = list(keys)
    return {name: [getattr(key, name) for key in listed] for name in SeriesKey._fields}
