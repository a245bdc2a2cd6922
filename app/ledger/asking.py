"""Asking: windows that count only through others, whose values OpenMeter is asked for. SQL only.

A window that straddles a period's boundary is covered by its two parts, each booked in its own
period; a window of a meter that cannot be combined is covered by its period's one window. These
others are rows like any window, pending as `awaiting_query` until the answer is there: what is
still to be asked is in the database, and a kill loses none of it.
"""

import hashlib
import json
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.ledger.windows import AWAITING_QUERY, TO_BE_ASKED, PendingWindow, SettledWindow
from app.mapping.resolution import InParts, WholePeriod

IN_PARTS: Final = "in_parts"
WHOLE_PERIOD: Final = "whole_period"


def period_group(group_filter: Sequence[tuple[str, str]]) -> tuple[bytes, str]:
    """The group key of a whole period's window, and the groups it is for as JSON.

    Salted: a daily window with the bounds of a daily period is another fact.
    """
    written = json.dumps(dict(sorted(group_filter)), ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(b"period:" + written.encode()).digest()[:16], written


async def cover(
    connection: AsyncConnection,
    covered: Sequence[tuple[PendingWindow, InParts | WholePeriod]],
    *,
    now: datetime,
) -> list[SettledWindow]:
    """Make what counts in the place of locked windows, to be asked for; returns these, covered."""
    split = [(window, how) for window, how in covered if isinstance(how, InParts)]
    whole = [(window, how) for window, how in covered if isinstance(how, WholePeriod)]
    if split:
        await _make_parts(connection, split, now)
    if whole:
        await _make_periods(connection, whole, now)
    return [
        SettledWindow(
            window.id,
            "covered",
            IN_PARTS if isinstance(how, InParts) else WHOLE_PERIOD,
            f"at {how.boundary.isoformat()}"
            if isinstance(how, InParts)
            else f"from {how.period.start.isoformat()}",
        )
        for window, how in covered
    ]


async def boundaries(connection: AsyncConnection, windows: Collection[int]) -> dict[int, datetime]:
    """Where those of some windows were divided that have parts already."""
    if not windows:
        return {}
    rows = await connection.execute(
        text(
            """
            select part_of, max(window_start) as boundary from usage_windows
            where part_of = any(cast(:windows as bigint[])) group by part_of
            """
        ),
        {"windows": list(windows)},
    )
    return {row.part_of: row.boundary for row in rows}


async def _make_parts(
    connection: AsyncConnection, split: Sequence[tuple[PendingWindow, InParts]], now: datetime
) -> None:
    """Both parts of each window; those that are there keep what is booked of them meanwhile.

    What a flush had provisionally stands as the first part from now on, on the same record. Which
    delivery it is from is written with the answer: until then the value is that of the one before.
    """
    await connection.execute(
        text(
            f"""
            insert into usage_windows as w (
                meter, subject, group_key, group_by, window_start, window_end, aggregation, value,
                source, part_of, delivery_id, svix_id, message_at, state, reason, retry_at)
            select p.meter, p.subject, p.group_key, p.group_by, part.starts, part.ends,
                   p.aggregation, 0, 'part', p.id, p.delivery_id, p.svix_id, p.message_at,
                   'pending', '{AWAITING_QUERY}', cast(:now as timestamptz)
            from unnest(cast(:ids as bigint[]), cast(:boundaries as timestamptz[]))
                as t (id, boundary)
            join usage_windows p on p.id = t.id
            cross join lateral (values (p.window_start, t.boundary), (t.boundary, p.window_end))
                as part (starts, ends)
            order by p.meter, p.subject, p.group_key, part.starts, part.ends
            on conflict (meter, subject, group_key, window_start, window_end) do update set
                source = 'part', part_of = excluded.part_of,
                aggregation = excluded.aggregation, state = 'pending',
                reason = '{AWAITING_QUERY}', detail = null, retry_at = excluded.retry_at
            where w.source in ('part', 'flush')
            """  # noqa: S608 - a constant
        ),
        {
            "now": now,
            "ids": [window.id for window, _ in split],
            "boundaries": [how.boundary for _, how in split],
        },
    )


async def _make_periods(
    connection: AsyncConnection, whole: Sequence[tuple[PendingWindow, WholePeriod]], now: datetime
) -> None:
    """One window for each whole period; the newest delivery behind it names it.

    Each time it is another revision, so that an answer to what was asked before is not written.
    While it waits, `booked_at` says since when.
    """
    newest = sorted(whole, key=lambda found: (found[0].message_at, found[0].svix_id))
    asked = {}
    for window, how in newest:
        key, written = period_group(how.group_filter)
        asked[window.facts.meter, window.facts.subject, key, how.period] = (window, written)
    await connection.execute(
        text(
            f"""
            insert into usage_windows as w (
                meter, subject, group_key, group_by, window_start, window_end, aggregation, value,
                source, delivery_id, svix_id, message_at, state, reason, retry_at, booked_at)
            select p.meter, p.subject, t.group_key, cast(t.group_by as jsonb), t.starts, t.ends,
                   p.aggregation, 0, 'period', p.delivery_id, p.svix_id, p.message_at,
                   'pending', '{AWAITING_QUERY}', cast(:now as timestamptz),
                   cast(:now as timestamptz)
            from unnest(cast(:ids as bigint[]), cast(:group_keys as bytea[]),
                        cast(:group_bys as text[]), cast(:starts as timestamptz[]),
                        cast(:ends as timestamptz[])) as t (id, group_key, group_by, starts, ends)
            join usage_windows p on p.id = t.id
            order by p.meter, p.subject, t.group_key, t.starts, t.ends
            on conflict (meter, subject, group_key, window_start, window_end) do update set
                delivery_id = excluded.delivery_id, svix_id = excluded.svix_id,
                message_at = excluded.message_at, aggregation = excluded.aggregation,
                revision = w.revision + 1, state = 'pending', reason = '{AWAITING_QUERY}',
                detail = null, retry_at = excluded.retry_at,
                booked_at = case when w.state = 'pending' and w.reason in {TO_BE_ASKED}
                                 then w.booked_at else excluded.booked_at end
            """  # noqa: S608 - a constant
        ),
        {
            "now": now,
            "ids": [window.id for window, _ in asked.values()],
            "group_keys": [key for _, _, key, _ in asked],
            "group_bys": [written for _, written in asked.values()],
            "starts": [period.start for *_, period in asked],
            "ends": [period.end for *_, period in asked],
        },
    )
