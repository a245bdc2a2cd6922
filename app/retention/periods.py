"""Item periods that are over for good: marked as pruned, then emptied. SQL only.

    mark   every record as Stripe holds it, nothing parked, no carry of use      COMMIT
    empty  some of its windows, then its records, batch by batch                 COMMIT each

The row of the item period stays, with its totals and what Stripe was told in all. Nothing is booked
on a pruned period any more, however far it is emptied: what is counted there could not be told from
what is not.
"""

from collections.abc import Collection
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import text
from app.mapping.repository import share_lock
from app.mapping.resolution import EPOCH
from app.retention.terms import Batch, Place, Swept

# The lump of all that came before the first known period has no end of its own, so it stays.
_OLD: Final = text(
    """
    select id from item_periods
    where id > :after and period_end < :before and pruned_at is null and period_start > :epoch
    order by id limit :limit for update skip locked
    """
)


def _carried(mine: str, other: str) -> str:
    """A carry between a record of the period and one whose own period is not over for good."""
    return f"""
        exists (
            select 1 from usage_records r join carries c on c.{mine} = r.id
            join usage_records o on o.id = c.{other}
            join item_periods op on op.id = o.item_period_id
            where r.item_period_id = p.id and (op.period_end >= :before or o.state <> 'reported'))
    """  # noqa: S608 - column names of this module


# What keeps windows on their records is that of the partial index `ix_usage_windows_keeping`. The
# value of a whole period stays: a late window would have it asked for, and billed, once more.
_KEPT: Final = text(
    f"""
    select p.id from unnest(cast(:ids as bigint[])) as p (id)
    where exists (
            select 1 from usage_records r
            where r.item_period_id = p.id
              and (r.state <> 'reported' or r.sent_key is not null or r.doubtful))
       or exists (
            select 1 from usage_records r join usage_windows w on w.usage_record_id = r.id
            where r.item_period_id = p.id and w.usage_record_id is not null
              and (w.state in ('parked', 'pending') or w.source = 'period'
                   or w.subject_contradicts))
       or exists (
            select 1 from usage_records r join usage_windows w on w.moving_from = r.id
            where r.item_period_id = p.id and w.moving_from is not null)
       or {_carried("from_record_id", "to_record_id")}
       or {_carried("to_record_id", "from_record_id")}
    """  # noqa: S608 - constants
)

_MARK: Final = text(
    """
    update item_periods p set pruned_at = :now, pruned_reported = coalesce((
        select case p.combination
                 when 'sum' then sum(r.reported_quantity)
                 when 'max' then max(r.reported_quantity)
                 else (array_agg(r.reported_quantity order by r.timestamp desc))[1] end
        from usage_records r where r.item_period_id = p.id), 0)
    where p.id = any(cast(:ids as bigint[]))
    """
)


async def mark_pruned(connection: AsyncConnection, batch: Batch) -> Swept:
    """Mark item periods that ended before `batch.before` and are settled for good."""
    # No mapping change may begin to move a window off a period that is being marked.
    await share_lock(connection)
    found = await connection.execute(
        _OLD,
        {
            "after": batch.after.outer,
            "before": batch.before,
            "epoch": EPOCH,
            "limit": batch.limit,
        },
    )
    old = list(found.scalars())
    if not old:
        return Swept(None, {})
    kept = await connection.execute(_KEPT, {"ids": old, "before": batch.before})
    over = sorted(set(old) - set(kept.scalars()))
    if over:
        await connection.execute(_MARK, {"ids": over, "now": batch.now})
    return Swept(Place(old[-1]), {"item_periods": len(over)})


_NEXT: Final = text(
    """
    select p.id from item_periods p
    where p.id > :after and p.pruned_at is not null
      and exists (select 1 from usage_records r where r.item_period_id = p.id)
    order by p.id limit 1
    """
)
_RECORDS: Final = text(
    """
    select id from usage_records
    where item_period_id = :period and id > :after order by id limit :limit
    """
)


async def next_records(connection: AsyncConnection, batch: Batch) -> tuple[int, list[int]] | None:
    """The next pruned period that is not empty, and some of its records."""
    period, after = batch.after
    while True:
        if period:
            found = await connection.execute(
                _RECORDS, {"period": period, "after": after, "limit": batch.limit}
            )
            records = list(found.scalars())
            if records:
                return period, records
        following = await connection.scalar(_NEXT, {"after": period})
        if following is None:
            return None
        period, after = following, 0


# Whatever is deleted here was settled when its period was marked; what was parked since stays.
_EMPTY: Final = text(
    """
    select r.id from usage_records r
    where r.id = any(cast(:ids as bigint[]))
      and r.state = 'reported' and r.sent_key is null and not r.doubtful
      and not exists (select 1 from usage_windows w where w.usage_record_id = r.id)
      and not exists (select 1 from usage_windows w where w.moving_from = r.id)
    order by r.id for update of r
    """
)
_DELETE: Final = {
    "attempts": text("delete from attempts where usage_record_id = any(cast(:ids as bigint[]))"),
    "carries": text(
        """
        delete from carries where id in (
            select id from carries where from_record_id = any(cast(:ids as bigint[]))
            union select id from carries where to_record_id = any(cast(:ids as bigint[])))
        """
    ),
    "usage_records": text("delete from usage_records where id = any(cast(:ids as bigint[]))"),
}


async def delete_records(connection: AsyncConnection, ids: Collection[int]) -> dict[str, int]:
    """Delete those of some records of a pruned period that have no window (any more)."""
    empty = list((await connection.execute(_EMPTY, {"ids": list(ids)})).scalars())
    if not empty:
        return {}
    return {
        table: (await connection.execute(statement, {"ids": empty})).rowcount
        for table, statement in _DELETE.items()
    }
