"""Moving: windows that a change of the mappings takes off their records. SQL in whole batches.

    marked: pending, on its record       with the change of the mappings           COMMIT
    taken off: pending, on no record     once its new place can take it            COMMIT
    woken, and booked like any           once the record has come down at Stripe   COMMIT

Each is a state in the database: a kill between two loses and doubles nothing. What can be booked
nowhere else stays where it is, parked under the reason.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import text
from app.ledger.windows import PendingWindow, SettledWindow
from app.mapping.standing import MOVING

# A window is woken when its old record has come down; this is for what nobody foresaw.
LOOK_AGAIN = timedelta(hours=1)

# Subscriptions of which something has still to come down at Stripe. What a window leaves may be
# taken from other records than its own: where the total is rounded, or a part was carried.
_STILL_UP: Final = """
    select subscription from usage_records where state = 'due'
      and (wanted_quantity < greatest(reported_quantity, coalesce(sent_quantity, 0)) or doubtful)
    union
    select subscription from usage_records where state = 'late'
      and wanted_quantity < greatest(reported_quantity, coalesce(sent_quantity, 0))
"""

_NOT_DOWN = text(
    f"""
    with still_up as materialized ({_STILL_UP})
    select r.id from usage_records r
    where r.id = any(cast(:ids as bigint[]))
      and (r.state in ('due', 'late') or r.subscription in (select subscription from still_up))
    """  # noqa: S608 - a constant
)

_WAKE = text(
    f"""
    with still_up as materialized ({_STILL_UP})
    update usage_windows set retry_at = null where id in (
        select w.id from usage_windows w join usage_records r on r.id = w.moving_from
        where w.moving_from is not null and w.usage_record_id is null and w.state = 'pending'
          and w.reason = '{MOVING}' and w.retry_at is not null
          and r.state not in ('due', 'late')
          and r.subscription not in (select subscription from still_up)
        order by w.id limit :limit for update of w skip locked)
    """  # noqa: S608 - constants
)


async def wake_moving(connection: AsyncConnection, *, limit: int) -> int:
    """Have windows booked anew whose old records have come down. Returns how many."""
    waiting = await connection.scalar(
        text(
            "select exists (select 1 from usage_windows "
            "where moving_from is not null and usage_record_id is null)"
        )
    )
    if not waiting:
        return 0
    return (await connection.execute(_WAKE, {"limit": limit})).rowcount


async def not_down_yet(
    connection: AsyncConnection, windows: Sequence[PendingWindow], *, now: datetime
) -> list[SettledWindow]:
    """Of locked windows those that wait for their old record: a revision may have woken them."""
    waiting = [w for w in windows if w.moving_from is not None and w.usage_record_id is None]
    if not waiting:
        return []
    rows = await connection.execute(_NOT_DOWN, {"ids": list({w.moving_from for w in waiting})})
    up = set(rows.scalars())
    return [taken_off(window, now=now) for window in waiting if window.moving_from in up]


def taken_off(window: PendingWindow, *, now: datetime) -> SettledWindow:
    """A window that stands on no record, and waits until the one that it left has come down."""
    return SettledWindow(
        window.id,
        "pending",
        MOVING,
        f"left usage record {window.moving_from}, and waits until that has come down at Stripe",
        now + LOOK_AGAIN,
        moving_from=window.moving_from,
    )
