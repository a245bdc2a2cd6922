"""Where item periods end, as far as Stripe has moved that. SQL only.

A period's end is known when its first usage is booked, but not for good: a trial is extended, and a
threshold or an upgrade moves the anchor. Whoever reads the subscription corrects what is booked.
"""

from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import text
from app.mapping.models import SubscriptionSnapshot
from app.mapping.releases import KEY_ORDER
from app.mapping.resolution import EPOCH

# The lump of all that is before what is known has no end of its own.
_MOVED: Final = """
    select p.id, case when p.period_start = t.start then t.finish else t.start end as ends
    from unnest(cast(:items as text[]), cast(:starts as timestamptz[]),
                cast(:ends as timestamptz[])) as t (item, start, finish)
    join item_periods p on p.subscription_item = t.item and p.period_start > :epoch
    where (p.period_start = t.start and p.period_end <> t.finish)
       or (p.period_start < t.start and p.period_end > t.start)
"""

# The value of a whole period that ends sooner was asked for with what is not in it.
_ASK_AGAIN = text(
    f"""
    with moved as materialized ({_MOVED}),
    found as materialized (
        select id, ends from (
            select w.id, w.meter, w.subject, w.group_key, w.window_start, w.window_end, m.ends
            from moved m
            join usage_records r on r.item_period_id = m.id
            join usage_windows w on w.usage_record_id = r.id
            where w.source = 'period') w
        where w.window_end > w.ends and w.window_start < w.ends),
    locked as (
        select id from usage_windows where id in (select id from found) {KEY_ORDER} for update)
    update usage_windows w set window_end = f.ends, revision = w.revision + 1,
        state = 'pending', reason = 'awaiting_query', detail = null, retry_at = :now,
        booked_at = :now
    from found f join locked l on l.id = f.id where w.id = f.id
    """  # noqa: S608 - constants
)

_CORRECT = text(
    f"""
    with moved as materialized ({_MOVED}),
    locked as (
        select id from item_periods where id in (select id from moved) order by id for update)
    update item_periods p set period_end = m.ends
    from moved m join locked l on l.id = m.id where p.id = m.id
    """  # noqa: S608 - constants
)


async def correct_ends(connection: AsyncConnection, snapshot: SubscriptionSnapshot) -> None:
    """Let the item periods end where the snapshot shows: the current ones, and those before."""
    items = [item for item in snapshot.items if EPOCH < item.period_start < item.period_end]
    if not items:
        return
    named = {
        "items": [item.id for item in items],
        "starts": [item.period_start for item in items],
        "ends": [item.period_end for item in items],
        "epoch": EPOCH,
    }
    await connection.execute(_ASK_AGAIN, named | {"now": snapshot.fetched_at})
    await connection.execute(_CORRECT, named)
