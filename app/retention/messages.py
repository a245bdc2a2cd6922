"""What was received and sent, as it came and went: raw bodies, deliveries, attempts. SQL only.

Rows are looked through in the order of their ids, which is nearly that of their times: a sweep ends
at the first batch whose last row is too young, and needs no index of its own for that.
"""

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Row, TextClause
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import text
from app.retention.terms import Batch, Place, Swept

_DELIVERIES: Final = text(
    """
    select id, received_at < :before as old from deliveries
    where id > :after order by id limit :limit
    """
)
_ATTEMPTS: Final = text(
    """
    select id, finished_at < :before as old from attempts
    where id > :after order by id limit :limit
    """
)

# What is to be booked, or failed to be, needs its body. The digest stays, and with it the answer to
# a resend.
_EMPTY: Final = text(
    """
    update deliveries set body = ''
    where id = any(cast(:ids as bigint[])) and state = 'booked' and body <> ''
    """
)
# A resend of what was rejected is judged anew with the body that it brings.
_DELETE_REJECTED: Final = text(
    """
    delete from deliveries where id in (
        select id from deliveries where id = any(cast(:ids as bigint[])) and state = 'rejected'
        order by id for update skip locked)
    """
)
# A delivery stays as long as anything that it told.
_DELETE_DELIVERIES: Final = text(
    """
    delete from deliveries where id in (
        select id from deliveries d
        where id = any(cast(:ids as bigint[])) and state in ('booked', 'rejected')
          and not exists (select 1 from usage_windows w where w.delivery_id = d.id)
          and not exists (select 1 from window_revisions v where v.delivery_id = d.id)
        order by id for update skip locked)
    """
)
# Those of a record that is not settled, or of an open period, tell what became of it.
_DELETE_ATTEMPTS: Final = text(
    """
    delete from attempts where id in (
        select a.id from attempts a
        join usage_records r on r.id = a.usage_record_id
        join item_periods p on p.id = r.item_period_id
        where a.id = any(cast(:ids as bigint[])) and r.state = 'reported'
          and r.sent_key is null and not r.doubtful and p.period_end < :now)
    """
)


async def empty_bodies(connection: AsyncConnection, batch: Batch) -> Swept:
    """Empty the bodies of old deliveries; what was rejected goes as a whole."""
    rows = await _look(connection, _DELIVERIES, batch)
    named = {"ids": _old(rows)}
    emptied = (await connection.execute(_EMPTY, named)).rowcount
    deleted = (await connection.execute(_DELETE_REJECTED, named)).rowcount
    return Swept(_next(rows, batch), {"bodies": emptied, "deliveries": deleted})


async def prune_deliveries(connection: AsyncConnection, batch: Batch) -> Swept:
    """Delete old deliveries of which no window is left."""
    rows = await _look(connection, _DELIVERIES, batch)
    deleted = (await connection.execute(_DELETE_DELIVERIES, {"ids": _old(rows)})).rowcount
    return Swept(_next(rows, batch), {"deliveries": deleted})


async def prune_attempts(connection: AsyncConnection, batch: Batch) -> Swept:
    """Delete old attempts of settled records whose period is over."""
    rows = await _look(connection, _ATTEMPTS, batch)
    named = {"ids": _old(rows), "now": batch.now}
    deleted = (await connection.execute(_DELETE_ATTEMPTS, named)).rowcount
    return Swept(_next(rows, batch), {"attempts": deleted})


async def _look(
    connection: AsyncConnection, statement: TextClause, batch: Batch
) -> Sequence[Row[Any]]:
    named = {"after": batch.after.outer, "before": batch.before, "limit": batch.limit}
    return (await connection.execute(statement, named)).all()


def _old(rows: Sequence[Row[Any]]) -> list[int]:
    return [row.id for row in rows if row.old]


def _next(rows: Sequence[Row[Any]], batch: Batch) -> Place | None:
    through = len(rows) < batch.limit or not rows[-1].old
    return None if through else Place(rows[-1].id)
