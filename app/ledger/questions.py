"""Questions to OpenMeter in the database: claimed, answered, put off. SQL only.

A question is about the two parts of a window, or about the window of a whole period. Which revision
it was asked for is checked when the answer is written: what came meanwhile asks for another one.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import text
from app.ledger.windows import TO_BE_ASKED
from app.mapping.reasons import ParkReason
from app.mapping.releases import KEY_ORDER

QUESTIONS_AT_ONCE = 50
# Who asks may be killed: another one asks again after this.
LEASE = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class Span:
    """A window whose value is asked for. Half-open. `booked`: an earlier value stands on a record.

    `value`: as it was told the last time, 0 where it never was.
    """

    id: int
    start: datetime
    end: datetime
    value: Decimal
    booked: bool = False


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked at once: the two parts of a window, or the window of a whole period.

    `provisional`: or what is left of one that was written before a period's end. `told`: the value
    and revision, when it was claimed, of the window that is divided; else of the window itself.
    `starts`: where the window that is divided begins.
    """

    meter: str
    subject: str
    aggregation: str
    group_by: Mapping[str, str]
    waiting_since: datetime
    spans: tuple[Span, ...]
    parent: int | None = None
    told: tuple[Decimal, int] = (Decimal(0), 1)
    provisional: bool = False
    starts: datetime | None = None

    @property
    def ids(self) -> list[int]:
        """The windows asked for, first to last."""
        return [span.id for span in self.spans]

    @property
    def torn(self) -> bool:
        """Whether a window is not divided in two, as it should be: then nobody can be asked."""
        return self.parent is not None and len(self.spans) != 2


# The literals are those of the partial index. Parts of a window that was parked wait for that.
DUE: Final = f"""
    select id, meter, subject, aggregation, group_by, window_start, window_end, value, revision,
           part_of, coalesce(booked_at, message_at) as waiting_since,
           usage_record_id is not null as booked, source
    from usage_windows w
    where state = 'pending' and reason in {TO_BE_ASKED} and (retry_at is null or retry_at <= :now)
      and source in ('part', 'flush', 'period')
      and (part_of is null or exists (
            select 1 from usage_windows p where p.id = w.part_of and p.state = 'covered'))
    order by retry_at nulls first limit :limit for update skip locked
"""  # noqa: S608 - a constant


async def claim(connection: AsyncConnection, now: datetime) -> list[Question]:
    """What is due to be asked; nobody else asks it until the lease ends."""
    rows = (await connection.execute(text(DUE), {"now": now, "limit": QUESTIONS_AT_ONCE})).all()
    if not rows:
        return []
    whole = [
        Question(
            row.meter,
            row.subject,
            row.aggregation,
            row.group_by,
            row.waiting_since,
            (Span(row.id, row.window_start, row.window_end, row.value, row.booked),),
            told=(row.value, row.revision),
            provisional=row.source == "flush",
        )
        for row in rows
        if row.part_of is None
    ]
    parents = {row.part_of for row in rows if row.part_of is not None}
    parts = await _parts_of(connection, parents) if parents else []
    asked = {id_ for question in parts for id_ in question.ids} | {row.id for row in rows}
    await ask_again(connection, sorted(asked), now + LEASE)
    return [*whole, *parts]


async def _parts_of(connection: AsyncConnection, parents: Iterable[int]) -> list[Question]:
    """The questions about the parts of some windows, all parts of each."""
    rows = await connection.execute(
        text(
            """
            select p.id as parent, p.meter, p.subject, p.aggregation, p.group_by, p.value as whole,
                   p.revision, p.window_start as starts,
                   coalesce(p.booked_at, p.message_at) as waiting_since,
                   c.id, c.window_start, c.window_end, c.value,
                   c.usage_record_id is not null as booked
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
            tuple(
                Span(row.id, row.window_start, row.window_end, row.value, row.booked)
                for row in parts
            ),
            parent,
            (parts[0].whole, parts[0].revision),
            starts=parts[0].starts,
        )
        for parent, parts in found.items()
    ]


async def ask_again(connection: AsyncConnection, ids: Sequence[int], at: datetime) -> None:
    """Ask for these windows, as far as they still wait, at that time."""
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


async def park(
    connection: AsyncConnection, question: Question, detail: str, retry_at: datetime | None
) -> None:
    """What cannot be asked is shown, and asked again in a while; what is booked of it stays."""
    await connection.execute(
        text(
            f"""
            update usage_windows set state = 'parked', reason = :reason, detail = :detail,
                retry_at = :retry_at
            where id = any(cast(:ids as bigint[])) and state = 'pending'
              and reason in {TO_BE_ASKED} and revision = :revision
            """  # noqa: S608 - a constant
        ),
        {
            "ids": question.ids,
            "reason": ParkReason.QUERY_UNANSWERED,
            "detail": detail[:500],
            "retry_at": retry_at,
            "revision": question.told[1],
        },
    )


async def write_values(
    connection: AsyncConnection,
    question: Question,
    values: Sequence[Decimal],
    *,
    slipped: bool = False,
    now: datetime,
) -> None:
    """Write the values down, unless the window was revised while they were asked for.

    `slipped`: what lies before the last part is billed with it.
    """
    if not await _still_asked(connection, question):
        return  # it was revised, and is asked for anew
    named = {"ids": question.ids, "values": list(values), "parent": question.parent}
    await connection.execute(
        text(
            """
            insert into window_revisions (
                usage_window_id, value, aggregation, source, delivery_id, svix_id, message_at,
                verdict, kept_at)
            select w.id, w.value, w.aggregation, w.source, w.delivery_id, w.svix_id, w.message_at,
                   'superseded', :now
            from usage_windows w
            join unnest(cast(:ids as bigint[]), cast(:values as numeric[])) as t (id, value)
                on w.id = t.id
            where w.usage_record_id is not null and w.value <> t.value
            """
        ),
        {"ids": question.ids, "values": list(values), "now": now},
    )
    # The delivery that divided the window names its parts: its id stands in the key of their POSTs.
    await connection.execute(
        text(
            """
            update usage_windows w set
                value = t.value, revision = w.revision + (w.value <> t.value)::int,
                state = 'pending', reason = null, detail = null, retry_at = null,
                delivery_id = case when p.id is null then w.delivery_id else p.delivery_id end,
                svix_id = coalesce(p.svix_id, w.svix_id),
                message_at = coalesce(p.message_at, w.message_at),
                slipped_from = case when :slipped and w.id = :last
                                     and w.window_start > cast(:starts as timestamptz)
                                    then cast(:starts as timestamptz) end,
                slipped_to = case when :slipped and w.id = :last
                                   and w.window_start > cast(:starts as timestamptz)
                                  then w.window_start end
            from unnest(cast(:ids as bigint[]), cast(:values as numeric[])) as t (id, value)
            left join usage_windows p on p.id = cast(:parent as bigint)
            where w.id = t.id
            """
        ),
        named
        | {
            "slipped": slipped,
            "last": question.ids[-1],
            "starts": question.starts,
        },
    )


async def _still_asked(connection: AsyncConnection, question: Question) -> bool:
    """Lock a question's windows; whether they are those that were asked for."""
    if question.parent is not None:
        # Before its parts, as booking takes them: so the two never wait for each other.
        revision = await connection.scalar(
            text("select revision from usage_windows where id = :id for update"),
            {"id": question.parent},
        )
        if revision != question.told[1]:
            return False
    rows = await connection.execute(
        text(
            f"""
            select revision, state = 'pending' and reason in {TO_BE_ASKED} as waiting
            from usage_windows
            where id = any(cast(:ids as bigint[])) {KEY_ORDER} for update
            """  # noqa: S608 - a constant
        ),
        {"ids": question.ids},
    )
    found = rows.all()
    if question.parent is not None:
        # One of them may have been taken up already: of an answer both are written, or none.
        return any(row.waiting for row in found)
    return all(row.waiting and row.revision == question.told[1] for row in found)
