"""Parts: a window over a period's boundary is divided there. SQL only.

They are rows beside the window, `part_of` it, and may be divided themselves.
"""

from collections import defaultdict
from collections.abc import Collection, Sequence
from datetime import datetime
from fractions import Fraction

from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import text
from app.ledger.approval import Part
from app.ledger.windows import AWAITING_QUERY, PendingWindow, part_key
from app.mapping.resolution import InParts


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


async def parts_of(connection: AsyncConnection, windows: Collection[int]) -> dict[int, list[Part]]:
    """The parts of those of some windows that are divided, in time: of a divided part its own."""
    found: dict[int, list[Part]] = defaultdict(list)
    if not windows:
        return found
    rows = await connection.execute(_PARTS, {"windows": list(windows)})
    for row in rows:
        booked = row.scale_numerator is not None
        scale = Fraction(int(row.scale_numerator), int(row.scale_denominator)) if booked else None
        found[row.whole].append(Part(row.value, scale))
    return found


_PARTS = text(
    """
    with recursive part as (
        select w.part_of as whole, w.id, w.value, w.window_start,
               w.scale_numerator, w.scale_denominator
        from usage_windows w where w.part_of = any(cast(:windows as bigint[]))
        union all
        select part.whole, w.id, w.value, w.window_start, w.scale_numerator, w.scale_denominator
        from part join usage_windows w on w.part_of = part.id)
    select whole, value, scale_numerator, scale_denominator from part
    where not exists (select 1 from usage_windows w where w.part_of = part.id)
    order by whole, window_start
    """
)


async def make_parts(
    connection: AsyncConnection, split: Sequence[tuple[PendingWindow, InParts]], now: datetime
) -> None:
    """Both parts of each window; those that are there keep what is booked of them meanwhile.

    What a flush had provisionally stands as the first part from now on, on the same record. Which
    delivery it is from is written with the answer: until then the value is that of the one before.
    """
    named = {
        "now": now,
        "ids": [window.id for window, _ in split],
        "series_keys": [window.group_key for window, _ in split],
        "part_keys": [part_key(window.group_key) for window, _ in split],
        "boundaries": [how.boundary for _, how in split],
    }
    await connection.execute(_TAKE_OVER, named)
    await connection.execute(_INSERT_PARTS, named)


_TAKE_OVER = text(
    f"""
    with found as materialized (
        select f.id, t.id as parent, t.part_key, p.aggregation as aggregation
        from unnest(cast(:ids as bigint[]), cast(:series_keys as bytea[]),
                    cast(:part_keys as bytea[]), cast(:boundaries as timestamptz[]))
            as t (id, series_key, part_key, boundary)
        join usage_windows p on p.id = t.id
        join usage_windows f on f.source = 'flush' and f.meter = p.meter
            and f.subject = p.subject and f.group_key = t.series_key
            and f.window_start = p.window_start and f.window_end = t.boundary
        where not exists (
            select 1 from usage_windows c
            where c.meter = p.meter and c.subject = p.subject and c.group_key = t.part_key
              and c.window_start = p.window_start and c.window_end = t.boundary)
        order by f.meter, f.subject, f.group_key, f.window_start for update of f)
    update usage_windows w set
        source = 'part', part_of = found.parent, group_key = found.part_key,
        aggregation = found.aggregation, state = 'pending', reason = '{AWAITING_QUERY}',
        detail = null, retry_at = cast(:now as timestamptz)
    from found where w.id = found.id
    """  # noqa: S608 - a constant
)

_INSERT_PARTS = text(
    f"""
    insert into usage_windows as w (
        meter, subject, group_key, group_by, window_start, window_end, aggregation, value,
        source, part_of, delivery_id, svix_id, message_at, state, reason, retry_at)
    select p.meter, p.subject, t.part_key, p.group_by, part.starts, part.ends,
           p.aggregation, 0, 'part', p.id, p.delivery_id, p.svix_id, p.message_at,
           'pending', '{AWAITING_QUERY}', cast(:now as timestamptz)
    from unnest(cast(:ids as bigint[]), cast(:part_keys as bytea[]),
                cast(:boundaries as timestamptz[])) as t (id, part_key, boundary)
    join usage_windows p on p.id = t.id
    cross join lateral (values (p.window_start, t.boundary), (t.boundary, p.window_end))
        as part (starts, ends)
    order by p.meter, p.subject, t.part_key, part.starts, part.ends
    on conflict (meter, subject, group_key, window_start, window_end) do update set
        part_of = excluded.part_of, aggregation = excluded.aggregation, state = 'pending',
        reason = '{AWAITING_QUERY}', detail = null, retry_at = excluded.retry_at
    """  # noqa: S608 - a constant
)
