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
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from decimal import Decimal

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.clock import Clock
from app.db import transaction
from app.errors import DatabaseUnavailable
from app.ledger import questions as store
from app.ledger.questions import Question
from app.ledger.unforeseen import UNFORESEEN, UNFORESEEN_RETRY
from app.mapping.aggregation import NEEDED
from app.mapping.models import Combination
from app.openmeter.api import OpenMeterClient
from app.openmeter.api_answers import QueryRow
from app.openmeter.api_errors import OpenMeterError, OpenMeterUnreachable

logger = logging.getLogger(__name__)

IN_FLIGHT = 4
ASK_AGAIN = timedelta(seconds=15)
PATIENCE = timedelta(minutes=15)
ASK_PARKED_AGAIN = timedelta(minutes=15)
TORN = "there are not two parts"
NOT_SET = "OPENMETER_API_URL is not set: nobody can be asked"


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
    and that comes with a correction of the window. Until then no part goes below zero for that: a
    period without other usage could not take it.
    """
    values = [value or Decimal(0) for value in asked]
    if NEEDED.get(aggregation) is not Combination.SUM:
        return values
    below_zero = whole < 0 or values[-1] < 0
    values[-1] = whole - sum(values[:-1], Decimal(0))
    if below_zero or values[-1] >= 0:
        return values
    lack, values[-1] = -values[-1], Decimal(0)
    for place in range(len(values) - 2, -1, -1):
        taken = max(min(lack, values[place]), Decimal(0))
        values[place] -= taken
        lack -= taken
    return values


def undivided(aggregation: str, whole: Decimal, known: Sequence[Decimal]) -> list[Decimal]:
    """The values of a window's parts where nobody can be asked; `known` is what they were. Pure.

    The last part takes what the others do not have: all of it where nothing was ever asked. Of a
    maximum no part has more than the window, and one of them has it; the newest value is the last.
    """
    combination = NEEDED.get(aggregation)
    if combination is Combination.SUM:
        return divided(aggregation, whole, known)
    if combination is Combination.MAX:
        capped = [min(value, whole) for value in known]
        return capped if whole in capped else [*capped[:-1], whole]
    return [*known[:-1], whole]


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
            questions = await store.claim(connection, now)
        async with asyncio.TaskGroup() as group:
            settled = [group.create_task(self._settle(question)) for question in questions]
        return sum(task.result() for task in settled)

    async def _settle(self, question: Question) -> bool:
        async with self._slots:
            try:
                return await self._settle_one(question)
            except DatabaseUnavailable:
                # No answer is lost: it is asked again when its lease ends.
                logger.warning("the database is not available; %s is asked again", question.meter)
            except UNFORESEEN:
                # The others must not wait for it, nor the flushes.
                logger.exception("%s could not be asked; later again", question.meter)
                await self._postpone(question)
        return False

    async def _postpone(self, question: Question) -> None:
        again = self._clock.now() + UNFORESEEN_RETRY
        try:
            async with transaction(self._engine) as connection:
                await store.ask_again(connection, question.ids, again)
        except (DatabaseUnavailable, SQLAlchemyError):
            logger.warning("%s could not be put off", question.meter)

    async def _settle_one(self, question: Question) -> bool:
        if question.torn:
            logger.error("%s of window %s: billed whole", TORN, question.parent)
            async with transaction(self._engine) as connection:
                await _do_without(connection, question, TORN, self._clock.now())
            return True
        try:
            values = await self._values(question)
        except OpenMeterError as error:
            return await self._unanswered(question, error)
        except ValueError as error:
            # A name or a bound that the API cannot express: no answer will ever come.
            return await self._unanswered(question, error, patience=timedelta(0))
        async with transaction(self._engine) as connection:
            await store.write_values(connection, question, values, now=self._clock.now())
        return True

    async def _values(self, question: Question) -> list[Decimal]:
        """The value of each span. Raises OpenMeterError; ValueError: it cannot be asked."""
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

    async def _unanswered(
        self, question: Question, error: Exception, *, patience: timedelta = PATIENCE
    ) -> bool:
        """Ask again later; when the patience is over do without the answer."""
        now = self._clock.now()
        asked = error.retry_after if isinstance(error, OpenMeterUnreachable) else None
        again = now + max(ASK_AGAIN, timedelta(seconds=asked or 0))
        logger.warning("OpenMeter gave no answer about %s: %s", question.meter, error)
        async with transaction(self._engine) as connection:
            if now - question.waiting_since < patience:
                await store.ask_again(connection, question.ids, again)
                return False
            await _do_without(connection, question, str(error), now)
        return True


async def ask_nobody(connection: AsyncConnection, now: datetime) -> int:
    """Settle some of what waits for an answer where OpenMeter's API is not set (any more).

    Returns how many questions that were.
    """
    questions = await store.claim(connection, now)
    for question in questions:
        await _do_without(connection, question, NOT_SET, now)
    return len(questions)


async def _do_without(
    connection: AsyncConnection, question: Question, detail: str, now: datetime
) -> None:
    """Bill a window without dividing it; park what only OpenMeter can tell.

    What is left of a provisional window stands as it was told.
    """
    if question.provisional:
        known = [span.value for span in question.spans]
        await store.write_values(connection, question, known, now=now)
        return
    if question.parent is None:
        await store.park(connection, question, detail, now + ASK_PARKED_AGAIN)
        return
    known = [span.value for span in question.spans]
    await store.write_values(
        connection,
        question,
        undivided(question.aggregation, question.told[0], known),
        slipped=question.torn or not any(span.booked or span.value for span in question.spans),
        now=now,
    )
