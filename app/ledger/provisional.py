"""Provisional windows give way: what was flushed before a period ended is told by a delivery now.

The regular window is booked on the record of the provisional one, so that the change of that record
is what the two differ by: where the period is closed meanwhile, only that is carried. A provisional
window that is told in part keeps the rest until that is told, too.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Final, NamedTuple

from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import text
from app.ledger.windows import (
    AWAITING_QUERY,
    WINDOW_COLUMNS,
    PendingWindow,
    SettledWindow,
    pending_window,
)
from app.mapping.aggregation import NEEDED
from app.mapping.models import Combination
from app.mapping.resolution import Target, WindowSource

REPLACED: Final = "replaced"


class RecordAt(NamedTuple):
    """The record of a provisional window."""

    subscription_item: str
    period_start: datetime
    timestamp: int


@dataclass(frozen=True, slots=True)
class Displaced:
    """Where regular windows go, and what is left of provisional ones.

    `targets` and `standing`: those given, with provisional windows at the value that is left.
    `replaced`: of which nothing is left. `asked`: OpenMeter is asked for the rest, as no flush
    will tell it anew, and where nothing was used no delivery ever does.
    """

    targets: list[tuple[PendingWindow, Target]]
    standing: list[PendingWindow]
    replaced: frozenset[int]
    asked: frozenset[int]
    waiting: list[SettledWindow]
    ids: frozenset[int]

    def settle(self, booked: Iterable[SettledWindow]) -> list[SettledWindow]:
        """What became of all windows: a provisional one that was replaced stands on no record."""
        return [self._settled(window) for window in booked] + self.waiting

    def _settled(self, window: SettledWindow) -> SettledWindow:
        if window.id in self.replaced:
            return SettledWindow(window.id, "covered", REPLACED)
        if window.id in self.asked:
            return window._replace(state="pending", reason=AWAITING_QUERY)
        return window


def rest(
    provisional: PendingWindow, told: Sequence[PendingWindow], *, now: datetime
) -> PendingWindow | None:
    """What is left of a provisional window beside those that deliveries told. Pure.

    None where they tell all of it, or its middle: that cannot be cut out. Once its end is over
    nothing is added to it any more: then a sum of which nothing is left is over, too.
    """
    facts, value = provisional.facts, provisional.value
    adds_up = NEEDED.get(facts.aggregation) is Combination.SUM
    for window in sorted(told, key=lambda window: window.facts.window_start):
        start, end = window.facts.window_start, window.facts.window_end
        if start <= facts.window_start < end < facts.window_end:
            facts = replace(facts, window_start=end)
        elif facts.window_start < start < facts.window_end <= end:
            facts = replace(facts, window_end=start)
        elif start < facts.window_end and end > facts.window_start:
            return None
        else:
            continue
        if adds_up:
            value = max(value - window.value, min(value, Decimal(0)))
    if adds_up and value == 0 and facts != provisional.facts and now >= facts.window_end:
        return None
    return provisional._replace(facts=facts, value=value)


async def displace(
    connection: AsyncConnection,
    targets: Sequence[tuple[PendingWindow, Target]],
    standing: Sequence[PendingWindow],
    pairs: Sequence[tuple[int, int]],
    *,
    now: datetime,
) -> Displaced:
    """Let provisional windows give way to the regular ones among `targets`, all of them locked.

    `pairs`: a provisional window and the regular one that overlaps it, by their ids.
    """
    over = frozenset(window.id for window in standing if _is_over(window, now))
    regular = {window.id: window for window in regular_windows(targets)}
    if not pairs:
        return Displaced(list(targets), list(standing), over, frozenset(), [], frozenset())
    told: dict[int, list[PendingWindow]] = defaultdict(list)
    for provisional, by in pairs:
        told[provisional].append(regular[by])
    windows = await _lock(connection, told)
    ids = frozenset(window.id for window in windows)
    records = await _records(connection, windows)
    places: dict[int, RecordAt] = {}
    still = [window for window in standing if window.id not in ids]
    waiting: list[SettledWindow] = []
    left: list[PendingWindow] = []
    asked: set[int] = set()
    for window in windows:
        remaining = rest(window, told[window.id], now=now)
        if remaining is not None:
            left.append(remaining)
            if (
                remaining.facts.window_end < window.facts.window_end
                or now >= window.facts.window_end
            ):
                asked.add(window.id)
        if window.usage_record_id is None:
            if remaining is None:
                waiting.append(SettledWindow(window.id, "covered", REPLACED))
            else:
                waiting.append(SettledWindow(window.id, "pending", moving_from=window.moving_from))
            continue
        places |= {by.id: records[window.usage_record_id] for by in told[window.id]}
        still.append(remaining or window._replace(value=Decimal(0)))
    await _cut(connection, left)
    return Displaced(
        [
            (window, _on_record(target, places.get(window.id)))
            for window, target in targets
            if window.id not in ids
        ],
        still,
        (over - ids) | (ids - {window.id for window in left}),
        frozenset(asked),
        waiting,
        ids,
    )


def regular_windows(targets: Iterable[tuple[PendingWindow, Target]]) -> list[PendingWindow]:
    """Those to which a provisional window gives way."""
    return [
        window
        for window, _ in targets
        if window.facts.source in (WindowSource.WEBHOOK, WindowSource.PART)
    ]


def _is_over(window: PendingWindow, now: datetime) -> bool:
    """Whether nothing is left of a provisional window, and nothing will be added to it."""
    return (
        window.facts.source is WindowSource.FLUSH
        and window.value == 0
        and now >= window.facts.window_end
        and NEEDED.get(window.facts.aggregation) is Combination.SUM
    )


def _on_record(target: Target, record: RecordAt | None) -> Target:
    """The target, on the record of the provisional window where that is in the same period."""
    if record is None or (target.subscription_item, target.period_start) != record[:2]:
        return target
    return target._replace(timestamp=record.timestamp)


async def overlapped(
    connection: AsyncConnection, windows: Sequence[PendingWindow]
) -> list[tuple[int, int]]:
    """Pairs of a provisional window and one that overlaps it."""
    if not windows:
        return []
    rows = await connection.execute(
        text(
            """
            select f.id as provisional, t.id as by
            from unnest(
                cast(:id as bigint[]), cast(:meter as text[]), cast(:subject as text[]),
                cast(:group_key as bytea[]), cast(:window_start as timestamptz[]),
                cast(:window_end as timestamptz[])
            ) as t (id, meter, subject, group_key, window_start, window_end)
            join usage_windows f
                on f.source = 'flush' and f.meter = t.meter and f.subject = t.subject
                and f.group_key = t.group_key and f.window_start < t.window_end
                and f.window_end > t.window_start and f.state <> 'covered'
            """
        ),
        {
            "id": [window.id for window in windows],
            "meter": [window.facts.meter for window in windows],
            "subject": [window.facts.subject for window in windows],
            "group_key": [window.group_key for window in windows],
            "window_start": [window.facts.window_start for window in windows],
            "window_end": [window.facts.window_end for window in windows],
        },
    )
    return [(row.provisional, row.by) for row in rows]


async def _lock(connection: AsyncConnection, ids: Iterable[int]) -> list[PendingWindow]:
    rows = await connection.execute(
        text(
            f"""
            select {WINDOW_COLUMNS} from usage_windows
            where id = any(cast(:ids as bigint[])) and source = 'flush' and state <> 'covered'
            order by id for update
            """  # noqa: S608 - the columns are a constant
        ),
        {"ids": sorted(ids)},
    )
    return [pending_window(row) for row in rows]


async def _records(
    connection: AsyncConnection, windows: Iterable[PendingWindow]
) -> dict[int, RecordAt]:
    rows = await connection.execute(
        text(
            """
            select r.id, r.subscription_item, p.period_start, r.timestamp
            from usage_records r join item_periods p on p.id = r.item_period_id
            where r.id = any(cast(:ids as bigint[]))
            """
        ),
        {"ids": [w.usage_record_id for w in windows if w.usage_record_id is not None]},
    )
    return {
        row.id: RecordAt(row.subscription_item, row.period_start, row.timestamp) for row in rows
    }


async def _cut(connection: AsyncConnection, left: Sequence[PendingWindow]) -> None:
    """Write what is left of provisional windows.

    Where a window with just these bounds waits to be booked, they begin a microsecond later: its
    place is taken when it is booked.
    """
    if not left:
        return
    await connection.execute(
        text(
            """
            update usage_windows w set
                window_start = t.starts + case when exists (
                    select 1 from usage_windows o
                    where o.meter = w.meter and o.subject = w.subject
                      and o.group_key = w.group_key and o.window_start = t.starts
                      and o.window_end = t.ends and o.id <> w.id)
                    then interval '1 microsecond' else interval '0' end,
                window_end = t.ends, value = t.value, revision = w.revision + 1
            from unnest(cast(:ids as bigint[]), cast(:starts as timestamptz[]),
                        cast(:ends as timestamptz[]), cast(:values as numeric[]))
                as t (id, starts, ends, value)
            where w.id = t.id
            """
        ),
        {
            "ids": [window.id for window in left],
            "starts": [window.facts.window_start for window in left],
            "ends": [window.facts.window_end for window in left],
            "values": [window.value for window in left],
        },
    )
