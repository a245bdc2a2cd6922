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

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.ledger.windows import WINDOW_COLUMNS, PendingWindow, SettledWindow, pending_window
from app.mapping.aggregation import NEEDED
from app.mapping.models import Combination
from app.mapping.resolve import Target, WindowSource

REPLACED: Final = "replaced"


class RecordAt(NamedTuple):
    """The record of a provisional window."""

    subscription_item: str
    period_start: datetime
    timestamp: int


@dataclass(frozen=True, slots=True)
class Displaced:
    """Where regular windows go, and what is left of provisional ones.

    `targets`: those given, without provisional windows that gave way. `standing`: provisional
    windows on a record, with the value that is left. `replaced`: those of which nothing is left.
    """

    targets: list[tuple[PendingWindow, Target]]
    standing: list[PendingWindow]
    replaced: frozenset[int]
    waiting: list[SettledWindow]
    ids: frozenset[int]

    def settle(self, booked: Iterable[SettledWindow]) -> list[SettledWindow]:
        """What became of all windows: a provisional one that was replaced stands on no record."""
        return [
            SettledWindow(w.id, "covered", REPLACED) if w.id in self.replaced else w for w in booked
        ] + self.waiting


def rest(provisional: PendingWindow, told: Sequence[PendingWindow]) -> PendingWindow | None:
    """What is left of a provisional window beside those that deliveries told. Pure.

    None where they tell all of it, or its middle: that cannot be cut out.
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
    return replace(provisional, facts=facts, value=value)


async def displace(
    connection: AsyncConnection, targets: Sequence[tuple[PendingWindow, Target]]
) -> Displaced:
    """Let provisional windows give way to the regular ones among `targets`, all of them locked."""
    regular = {
        window.id: window
        for window, _ in targets
        if window.facts.source in (WindowSource.WEBHOOK, WindowSource.PART)
    }
    pairs = await overlapped(connection, list(regular.values()))
    if not pairs:
        return Displaced(list(targets), [], frozenset(), [], frozenset())
    told: dict[int, list[PendingWindow]] = defaultdict(list)
    for provisional, by in pairs:
        told[provisional].append(regular[by])
    windows = await _lock(connection, told)
    records = await _records(connection, windows)
    places: dict[int, RecordAt] = {}
    standing: list[PendingWindow] = []
    waiting: list[SettledWindow] = []
    left: list[PendingWindow] = []
    for window in windows:
        remaining = rest(window, told[window.id])
        if remaining is not None:
            left.append(remaining)
        if window.usage_record_id is None:
            state = "covered" if remaining is None else "pending"
            waiting.append(SettledWindow(window.id, state, REPLACED if remaining is None else None))
            continue
        places |= {by.id: records[window.usage_record_id] for by in told[window.id]}
        standing.append(remaining or replace(window, value=Decimal(0)))
    await _cut(connection, left)
    ids = frozenset(window.id for window in windows)
    return Displaced(
        [
            (window, _on_record(target, places.get(window.id)))
            for window, target in targets
            if window.id not in ids
        ],
        standing,
        ids - {window.id for window in left},
        waiting,
        ids,
    )


def _on_record(target: Target, record: RecordAt | None) -> Target:
    """The target, on the record of the provisional window where that is in the same period."""
    if record is None or (target.subscription_item, target.period_start) != record[:2]:
        return target
    return replace(target, timestamp=record.timestamp)


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
    """Write what is left of provisional windows."""
    if not left:
        return
    await connection.execute(
        text(
            """
            update usage_windows w set window_start = t.starts, window_end = t.ends,
                value = t.value, revision = w.revision + 1
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
