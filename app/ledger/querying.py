"""Querying: what windows alone do not tell is asked from OpenMeter, and written down.

    claim what is due to be asked                     COMMIT (nobody else asks it for a while)
    ask OpenMeter                                     no transaction is open
    write the values; the windows are booked next     COMMIT

The first part of a window that straddles a period's boundary is asked by the minute; under SUM and
COUNT the second one is the rest of the window, so that both together are what the delivery said.
Where OpenMeter gives no answer for PATIENCE, the whole window is billed in the period it ends in,
and the span that slipped is written down with it.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.clock import Clock
from app.db import transaction
from app.ledger.windows import TO_BE_ASKED
from app.mapping.aggregation import NEEDED
from app.mapping.models import Combination
from app.mapping.reasons import ParkReason
from app.mapping.releases import KEY_ORDER
from app.openmeter.api import OpenMeterClient
from app.openmeter.api_answers import QueryRow
from app.openmeter.api_errors import OpenMeterError, OpenMeterUnreachable

logger = logging.getLogger(__name__)

QUESTIONS_AT_ONCE = 50
IN_FLIGHT = 4
# Who asks may be killed: another one asks again after this.
LEASE = timedelta(seconds=60)
ASK_AGAIN = timedelta(seconds=15)
PATIENCE = timedelta(minutes=15)
ASK_PARKED_AGAIN = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Span:
    """A window whose value is asked for. Half-open."""

    id: int
    start: datetime
    end: datetime
    value: Decimal


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked at once: the two parts of a window, or the window of a whole period.

    `told`: the value and revision of the window that is divided, as it stood when it was claimed.
    """

    meter: str
    subject: str
    aggregation: str
    group_by: Mapping[str, str]
    waiting_since: datetime
    spans: tuple[Span, ...]
    parent: int | None = None
    told: tuple[Decimal, int] = (Decimal(0), 0)


def combined(aggregation: str, rows: Iterable[QueryRow]) -> Decimal | None:
    """The value of a span from its minutes; None without usage. Pure."""
    ordered = sorted(rows, key=lambda row: row.window_start)
    if not ordered:
        return None
    combination = NEEDED.get(aggregation)
    if combination is Combination.SUM:
        return sum((row.value for row in ordered), Decimal(0))
    if combination is Combination.MAX:
        return max(row.value for row in ordered)
    return ordered[-1].value


def divided(aggregation: str, whole: Decimal, asked: Sequence[Decimal | None]) -> list[Decimal]:
    """The values of a window's parts, first to last. Pure.

    Where values add up the last part is the rest: OpenMeter may have learned of more meanwhile,
    and that comes with a correction of the window.
    """
    values = [value or Decimal(0) for value in asked]
    if NEEDED.get(aggregation) is Combination.SUM:
        values[-1] = whole - sum(values[:-1], Decimal(0))
    return values


class Querier:
    """Asks what is due to be asked. Any number of queriers may work on one database."""

    def __init__(self, engine: AsyncEngine, clock: Clock, client: OpenMeterClient) -> None:
        self._engine = engine
        self._clock = clock
        self._client = client
        self._slots = asyncio.Semaphore(IN_FLIGHT)

    async def ask(self) -> int:
        """Ask some of what is due; returns how many questions were settled.

        Raises DatabaseUnavailable.
        """
        now = self._clock.now()
        async with transaction(self._engine) as connection:
            questions = await _claim(connection, now)
        settled = await asyncio.gather(*(self._settle(question) for question in questions))
        return sum(settled)

    async def _settle(self, question: Question) -> bool:
        async with self._slots:
            try:
                values = await self._values(question)
            except OpenMeterError as error:
                return await self._unanswered(question, error)
        async with transaction(self._engine) as connection:
            await _write(connection, question, values)
        return True

    async def _values(self, question: Question) -> list[Decimal]:
        """The value of each span. Raises OpenMeterError."""
        asked: list[Decimal | None] = []
        for span in question.spans:
            rows = await self._client.query(
                question.meter,
                from_=span.start,
                to=span.end,
                subject=question.subject,
                filter_group_by=question.group_by,
                window_size=None if question.parent is None else "MINUTE",
            )
            asked.append(combined(question.aggregation, rows))
        if question.parent is None:
            return [value or Decimal(0) for value in asked]
        return divided(question.aggregation, question.told[0], asked)

    async def _unanswered(self, question: Question, error: OpenMeterError) -> bool:
        """Ask again later; after PATIENCE do without the answer."""
        now = self._clock.now()
        asked = error.retry_after if isinstance(error, OpenMeterUnreachable) else None
        again = now + max(ASK_AGAIN, timedelta(seconds=asked or 0))
        logger.warning("OpenMeter gave no answer about %s: %s", question.meter, error)
        ids = [span.id for span in question.spans]
        async with transaction(self._engine) as connection:
            if now - question.waiting_since < PATIENCE:
                await _ask_again(connection, ids, again)
                return False
            if question.parent is None:
                await _park(connection, ids, str(error), now + ASK_PARKED_AGAIN)
            else:
                values = [span.value for span in question.spans]
                first_time = all(value == 0 for value in values[:-1])
                await _write(
                    connection,
                    question,
                    divided(question.aggregation, question.told[0], values),
                    slipped=first_time,
                )
        return True


_DUE: Final = f"""
    select id, meter, subject, aggregation, group_by, window_start, window_end, value, source,
           part_of, message_at
    from usage_windows
    where state = 'pending' and reason in {TO_BE_ASKED} and (retry_at is null or retry_at <= :now)
    order by retry_at nulls first, id limit :limit for update skip locked
"""  # noqa: S608 - a constant


async def _claim(connection: AsyncConnection, now: datetime) -> list[Question]:
    """What is due to be asked; nobody else asks it until the lease ends."""
    rows = (await connection.execute(text(_DUE), {"now": now, "limit": QUESTIONS_AT_ONCE})).all()
    if not rows:
        return []
    whole = [
        Question(
            row.meter,
            row.subject,
            row.aggregation,
            row.group_by,
            row.message_at,
            (Span(row.id, row.window_start, row.window_end, row.value),),
        )
        for row in rows
        if row.part_of is None
    ]
    parents = {row.part_of for row in rows if row.part_of is not None}
    parts = await _parts_of(connection, parents) if parents else []
    asked = [span.id for question in (*whole, *parts) for span in question.spans]
    await _ask_again(connection, asked, now + LEASE)
    return [*whole, *parts]


async def _parts_of(connection: AsyncConnection, parents: Iterable[int]) -> list[Question]:
    """The questions about the parts of some windows, all parts of each."""
    rows = await connection.execute(
        text(
            """
            select p.id as parent, p.meter, p.subject, p.aggregation, p.group_by, p.value as whole,
                   p.revision, coalesce(p.booked_at, p.message_at) as waiting_since,
                   c.id, c.window_start, c.window_end, c.value
            from usage_windows p join usage_windows c on c.part_of = p.id
            where p.id = any(cast(:parents as bigint[])) and p.state = 'covered'
            order by p.id, c.window_start
            """
        ),
        {"parents": sorted(parents)},
    )
    found: dict[int, list[Row[Any]]] = defaultdict(list)
    for row in rows:
        found[row.parent].append(row)
    return [
        Question(
            parts[0].meter,
            parts[0].subject,
            parts[0].aggregation,
            parts[0].group_by,
            parts[0].waiting_since,
            tuple(Span(row.id, row.window_start, row.window_end, row.value) for row in parts),
            parent,
            (parts[0].whole, parts[0].revision),
        )
        for parent, parts in found.items()
    ]


async def _ask_again(connection: AsyncConnection, ids: Sequence[int], at: datetime) -> None:
    await connection.execute(
        text(
            f"""
            update usage_windows set retry_at = :at
            where id = any(cast(:ids as bigint[])) and state = 'pending'
              and reason in {TO_BE_ASKED}
            """  # noqa: S608 - a constant
        ),
        {"ids": list(ids), "at": at},
    )


async def _park(
    connection: AsyncConnection, ids: Sequence[int], detail: str, retry_at: datetime
) -> None:
    """What cannot be asked is shown, and asked again in a while; what is booked of it stays."""
    await connection.execute(
        text(
            """
            update usage_windows set state = 'parked', reason = :reason, detail = :detail,
                retry_at = :retry_at
            where id = any(cast(:ids as bigint[])) and state = 'pending'
            """
        ),
        {
            "ids": list(ids),
            "reason": ParkReason.QUERY_UNANSWERED,
            "detail": detail[:500],
            "retry_at": retry_at,
        },
    )


async def _write(
    connection: AsyncConnection,
    question: Question,
    values: Sequence[Decimal],
    *,
    slipped: bool = False,
) -> None:
    """Write the values down, unless the window was revised while they were asked for.

    `slipped`: what lies before the last part is billed with it.
    """
    ids = [span.id for span in question.spans]
    if question.parent is not None:
        # Before its parts, as booking takes them: so the two never wait for each other.
        revision = await connection.scalar(
            text("select revision from usage_windows where id = :id for update"),
            {"id": question.parent},
        )
        if revision != question.told[1]:
            return  # it is pending, and its parts are asked for anew
    await connection.execute(
        text(
            f"""
            select id from usage_windows
            where id = any(cast(:ids as bigint[])) {KEY_ORDER} for update
            """  # noqa: S608 - a constant
        ),
        {"ids": ids},
    )
    await connection.execute(
        text(
            """
            insert into window_revisions (
                usage_window_id, value, aggregation, source, delivery_id, svix_id, message_at,
                verdict, kept_at)
            select w.id, w.value, w.aggregation, w.source, w.delivery_id, w.svix_id, w.message_at,
                   'superseded', now()
            from usage_windows w
            join unnest(cast(:ids as bigint[]), cast(:values as numeric[])) as t (id, value)
                on w.id = t.id
            where w.usage_record_id is not null and w.value <> t.value
            """
        ),
        {"ids": ids, "values": list(values)},
    )
    await connection.execute(
        text(
            """
            update usage_windows w set
                value = t.value, revision = w.revision + (w.value <> t.value)::int,
                state = 'pending', reason = null, detail = null, retry_at = null,
                slipped_from = case when :slipped and w.id = :last
                                    then cast(:starts as timestamptz) else w.slipped_from end,
                slipped_to = case when :slipped and w.id = :last
                                  then w.window_start else w.slipped_to end
            from unnest(cast(:ids as bigint[]), cast(:values as numeric[])) as t (id, value)
            where w.id = t.id
            """
        ),
        {
            "ids": ids,
            "values": list(values),
            "slipped": slipped,
            "last": ids[-1],
            "starts": question.spans[0].start,
        },
    )
