"""Windows of a subscription that has ended, whose usage was flushed before: it is on the last bill.

To park them would show all of it as usage that was never billed. So they are booked where it was
flushed, and what they tell more (or less) is shown with that record.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import text
from app.ledger.windows import PendingWindow
from app.mapping.models import Combination, LatePolicy, Rounding
from app.mapping.reasons import ParkReason
from app.mapping.resolution import InParts, Parked, Resolution, Rules, Target

# A flush that others have replaced says still where it stood: there these stand now.
_FLUSHED: Final = text(
    """
    select distinct on (t.id) t.id, f.window_end, r.subscription, r.subscription_item, r.timestamp,
           r.increment, p.period_start, p.period_end, p.rounding, p.combination, p.late_policy,
           there.scale_numerator, there.scale_denominator
    from unnest(
        cast(:id as bigint[]), cast(:meter as text[]), cast(:subject as text[]),
        cast(:group_key as bytea[]), cast(:window_start as timestamptz[]),
        cast(:window_end as timestamptz[])
    ) as t (id, meter, subject, group_key, window_start, window_end)
    join usage_windows f
        on f.source = 'flush' and f.meter = t.meter and f.subject = t.subject
        and f.group_key = t.group_key and f.window_start < t.window_end
        and f.window_end > t.window_start
    cross join lateral (
        select w.usage_record_id as id, w.scale_numerator, w.scale_denominator
        from usage_windows w
        join usage_records at on at.id = w.usage_record_id and at.timestamp = f.record_at
        where w.meter = f.meter and w.subject = f.subject and w.group_key = f.group_key
          and w.window_start < f.window_end and w.window_end > f.window_start
        order by w.id limit 1) there
    join usage_records r on r.id = there.id
    join item_periods p on p.id = r.item_period_id
    order by t.id, f.state = 'covered', f.id desc
    """
)


@dataclass(frozen=True, slots=True)
class Flushed:
    """Where a provisional window stands, and up to where it tells."""

    end: datetime
    target: Target


async def billed_before_the_end(
    connection: AsyncConnection,
    found: Sequence[tuple[PendingWindow, Resolution]],
    rules: Rules,
) -> list[tuple[PendingWindow, Resolution]]:
    """What was resolved, with windows of ended subscriptions where they were flushed, if so.

    A window that goes on after the subscription's end is divided there.
    """
    ended = {
        window.id: window
        for window, resolution in found
        if isinstance(resolution, Parked)
        and resolution.reason is ParkReason.SUBSCRIPTION_ENDED
        and not window.leaving
    }
    if not ended:
        return list(found)
    by_window = await _flushed(connection, list(ended.values()))
    return [
        (window, _booking(window, by_window[window.id], resolution, rules))
        if window.id in by_window
        else (window, resolution)
        for window, resolution in found
    ]


def _booking(
    window: PendingWindow, flushed: Flushed, parked: Resolution, rules: Rules
) -> Resolution:
    if window.facts.window_end <= flushed.end:
        return flushed.target
    return InParts(flushed.end) if rules.queries else parked


async def _flushed(
    connection: AsyncConnection, windows: Sequence[PendingWindow]
) -> dict[int, Flushed]:
    """By window: where its usage was flushed."""
    rows = await connection.execute(
        _FLUSHED,
        {
            "id": [window.id for window in windows],
            "meter": [window.facts.meter for window in windows],
            "subject": [window.facts.subject for window in windows],
            "group_key": [window.group_key for window in windows],
            "window_start": [window.facts.window_start for window in windows],
            "window_end": [window.facts.window_end for window in windows],
        },
    )
    return {
        row.id: Flushed(
            row.window_end,
            Target(
                row.subscription,
                row.subscription_item,
                row.period_start,
                row.period_end,
                row.timestamp,
                Fraction(int(row.scale_numerator), int(row.scale_denominator)),
                Rounding(row.rounding),
                Combination(row.combination),
                LatePolicy(row.late_policy),
                row.increment,
            ),
        )
        for row in rows
    }
