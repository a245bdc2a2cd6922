"""What stands behind an invoice line, read from the ledger. SQL only; every list has a bound.

One transaction that sees one state: with a booker at work, totals and records read a moment apart
would contradict each other.
"""

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from itertools import accumulate
from typing import Any, Final

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.db import text, transaction
from app.ledger import explaining_rows as rows
from app.ledger import explaining_sql as sql
from app.ledger.explained import (
    ExplainedCarry,
    ExplainedPeriod,
    ExplainedRecord,
    ExplainedWindow,
    PeriodHead,
    PeriodTotals,
    SubjectDay,
    Unsettled,
    Waiting,
)

MOST_RECORDS: Final = 500
MOST_WINDOWS: Final = 2_000
MOST_ATTEMPTS: Final = 20  # of one record, the newest
MOST_REVISIONS: Final = 20  # of one window, the newest
MOST_CARRIES: Final = 200
MOST_ASIDE: Final = 200
MOST_PERIODS: Final = 10  # of one page
MOST_NAMED_PERIODS: Final = 6


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many records and windows one page shows of one item period."""

    records: int = MOST_RECORDS
    windows: int = MOST_WINDOWS

    def shared_by(self, periods: int) -> "Bounds":
        """The share of each of several periods on one page."""
        share = max(periods, 1)
        return Bounds(self.records // share, self.windows // share)


BOUNDS: Final = Bounds()


class ExplainingRepository:
    """Reads the ledger for explanations."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    @asynccontextmanager
    async def _look(self) -> AsyncIterator[AsyncConnection]:
        async with transaction(self._engine) as connection:
            await connection.execute(
                text("set transaction isolation level repeatable read, read only")
            )
            yield connection

    async def item_period(
        self, item: str, at: datetime, *, after: int | None
    ) -> ExplainedPeriod | None:
        """An item in the period that a moment lies in; None where none is known."""
        async with self._look() as connection:
            head = await _head_at(connection, item, at)
            if head is None:
                return None
            return await _period(connection, head, BOUNDS, after=after)

    async def known_periods(self, item: str) -> list[tuple[datetime, datetime]]:
        """The newest periods of an item, newest first; none where the item is not known."""
        async with self._look() as connection:
            found = await connection.execute(
                sql.KNOWN_PERIODS, {"item": item, "limit": MOST_NAMED_PERIODS}
            )
            return [(row.period_start, row.period_end) for row in found]

    async def subject_day(
        self, subject: str, day: date
    ) -> tuple[SubjectDay, tuple[ExplainedPeriod, ...]]:
        """A subject's windows of a day, and the item periods they stand on.

        Of each period only the records that hold one of those windows.
        """
        since = datetime.combine(day, time(), UTC)
        bounds = {"subject": subject, "since": since, "until": since + timedelta(days=1)}
        async with self._look() as connection:
            counts = [
                Waiting(row.state, row.reason, row.windows)
                for row in await connection.execute(sql.DAY_COUNTS, bounds)
            ]
            aside = await connection.execute(sql.DAY_ASIDE, {**bounds, "limit": MOST_ASIDE})
            places = await _ids_by_period(connection, bounds)
            shown = sorted(places)[:MOST_PERIODS]
            heads = await _heads(connection, shown)
            bounds_of_each = BOUNDS.shared_by(len(heads))
            periods = [
                await _period(connection, head, bounds_of_each, only=places[head.id or 0])
                for head in heads
            ]
            booked = sum(count.windows for count in counts if count.state == "booked")
            windows = sum(count.windows for count in counts)
            found = SubjectDay(
                subject,
                day,
                windows,
                booked,
                await _with_revisions(connection, [rows.window(row) for row in aside]),
                tuple(count for count in counts if count.state != "booked"),
                len(places),
            )
        return found, tuple(periods)


async def _head_at(connection: AsyncConnection, item: str, at: datetime) -> PeriodHead | None:
    """The item's period at a time; where nothing was booked, as Stripe told it."""
    found = (await connection.execute(sql.HEAD_AT, {"item": item, "at": at})).one_or_none()
    if found is None:
        found = (await connection.execute(sql.HEAD_AT_STRIPE, {"item": item, "at": at})).first()
    return None if found is None else rows.head(found)


async def _heads(connection: AsyncConnection, ids: Sequence[int]) -> list[PeriodHead]:
    found = await connection.execute(sql.HEADS, {"ids": list(ids)})
    return [rows.head(row) for row in found]


async def _ids_by_period(
    connection: AsyncConnection, bounds: dict[str, Any]
) -> dict[int, list[int]]:
    """The records that a subject's windows of a day stand on, by item period."""
    places: dict[int, list[int]] = {}
    for row in await connection.execute(sql.DAY_RECORDS, bounds):
        places.setdefault(row.item_period_id, []).append(row.id)
    return places


async def _period(
    connection: AsyncConnection,
    head: PeriodHead,
    bounds: Bounds,
    *,
    after: int | None = None,
    only: Collection[int] | None = None,
) -> ExplainedPeriod:
    named = {"period": head.id}
    totals = (await connection.execute(sql.TOTALS, named)).one()
    records, next_after = await _records(connection, head, bounds, after=after, only=only)
    carries, carries_in_all = await _carries(connection, head)
    waiting, counts = await _waiting(connection, head)
    return ExplainedPeriod(
        head,
        _totals(head, totals),
        tuple(
            Unsettled(row.state, row.reason, row.records, int(row.quantity))
            for row in await connection.execute(sql.UNSETTLED, named)
        ),
        records,
        next_after,
        totals.records if only is None else len(only),
        carries,
        carries_in_all,
        waiting,
        counts,
    )


def _totals(head: PeriodHead, row: Row[Any]) -> PeriodTotals:
    wanted = {
        "max": (row.wanted_max, row.reported_max),
        "latest": (row.wanted_newest, row.reported_newest),
    }.get(head.combination or "sum", (row.wanted_sum, row.reported_sum))
    if head.pruned_at is not None:  # what was told to Stripe stood as it was wanted
        wanted = (head.pruned_reported, head.pruned_reported)
    added_up = head.id is not None and head.combination == "sum"
    return PeriodTotals(
        head.exact if added_up else None,
        head.rounded if added_up else None,
        int(row.carried_in),
        int(row.carried_out),
        int(wanted[0] or 0),
        int(wanted[1] or 0),
        row.records,
        row.in_doubt,
    )


async def _records(
    connection: AsyncConnection,
    head: PeriodHead,
    bounds: Bounds,
    *,
    after: int | None,
    only: Collection[int] | None,
) -> tuple[tuple[ExplainedRecord, ...], int | None]:
    """A page of records: as many as fit with all of their windows, but at least one."""
    found = (
        await connection.execute(
            sql.RECORDS,
            {
                "period": head.id,
                "after": after,
                "only": None if only is None else list(only),
                "limit": bounds.records + 1,
            },
        )
    ).all()
    fitting = sum(n <= bounds.windows for n in accumulate(row.windows_in_all for row in found))
    shown = found[: min(max(fitting, 1), bounds.records)]
    ids = {"ids": [row.id for row in shown]}
    windows = await connection.execute(sql.WINDOWS, {**ids, "limit": bounds.windows})
    by_record: dict[int, list[ExplainedWindow]] = {}
    for window in await _with_revisions(connection, [rows.window(row) for row in windows]):
        by_record.setdefault(window.usage_record_id or 0, []).append(window)
    attempts = await connection.execute(sql.ATTEMPTS, {**ids, "limit": MOST_ATTEMPTS})
    by_attempt = rows.by(attempts, "usage_record_id", rows.attempt)
    records = tuple(
        rows.record(row, tuple(by_record.get(row.id, ())), by_attempt.get(row.id, ()))
        for row in shown
    )
    return records, shown[-1].timestamp if len(shown) < len(found) else None


async def _with_revisions(
    connection: AsyncConnection, windows: Sequence[ExplainedWindow]
) -> tuple[ExplainedWindow, ...]:
    found = (
        await connection.execute(
            sql.REVISIONS, {"ids": [w.id for w in windows], "limit": MOST_REVISIONS}
        )
    ).all()
    in_all = {row.usage_window_id: row.in_all for row in found}
    revisions = rows.by(found, "usage_window_id", rows.revision)
    return tuple(
        rows.with_revisions(w, revisions.get(w.id, ()), in_all.get(w.id, 0)) for w in windows
    )


async def _carries(
    connection: AsyncConnection, head: PeriodHead
) -> tuple[tuple[ExplainedCarry, ...], int]:
    found = (
        await connection.execute(sql.CARRIES, {"period": head.id, "limit": MOST_CARRIES})
    ).all()
    return tuple(rows.carry(row) for row in found), found[0].in_all if found else 0


async def _waiting(
    connection: AsyncConnection, head: PeriodHead
) -> tuple[tuple[ExplainedWindow, ...], tuple[Waiting, ...]]:
    """The windows that are parked or pending and are, or may be, for this item and period."""
    named = {
        "period": head.id,
        "item": head.subscription_item,
        "subscription": head.subscription,
        "start": head.period_start,
        "end": head.period_end,
    }
    counts = tuple(
        Waiting(row.state, row.reason, row.windows, row.certain)
        for row in await connection.execute(sql.WAITING_COUNTS, named)
    )
    found = await connection.execute(sql.WAITING, {**named, "limit": MOST_ASIDE})
    return await _with_revisions(connection, [rows.window(row) for row in found]), counts
