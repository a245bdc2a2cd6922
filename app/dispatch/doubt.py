"""Settling increments in doubt by Stripe's own totals.

An increment whose answer was lost is never sent again. A minute later the item's usage record
summaries are read: if the period's total is what the ledger reported without the increment, it was
not executed; if it is that with it, it was. Anything else stays held, says both figures, and is
looked at again ever more rarely.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.clock import Clock
from app.db import transaction
from app.dispatch import doubt_records as store
from app.dispatch import line as the_line
from app.dispatch.comparing import Compared, compare, in_period, period_of
from app.dispatch.decide import stop_of
from app.dispatch.doubt_records import DoubtfulItem, Look, Settled
from app.dispatch.lanes import release_lanes
from app.errors import DatabaseUnavailable
from app.stripe_client import StripeClient, StripeError
from app.stripe_client.answers import UsageRecordSummary

logger = logging.getLogger(__name__)

POLL = 2.0
PERIODS = 100  # of one read; more cost the same


class Settler:
    """Looks after what is in doubt. Any number may work on one database."""

    def __init__(
        self,
        engine: AsyncEngine,
        clock: Clock,
        client: StripeClient,
        *,
        worker: str,
        on_due: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._client = client
        self._worker = worker
        self._on_due = on_due

    async def run(self) -> None:
        """Look every few seconds until cancelled."""
        while True:
            try:
                await self.look()
            except DatabaseUnavailable:
                logger.warning("the database is not available; what is in doubt stays so")
            await asyncio.sleep(POLL)

    async def look(self) -> list[Settled]:
        """Look at everything whose time has come, once. Raises DatabaseUnavailable."""
        now = self._clock.now()
        settled: list[Settled] = []
        async with transaction(self._engine) as connection:
            raised = await store.raise_again(connection, now=now)
            stopped = (await the_line.read_line(connection)).stopped
            items = [] if stopped else await store.items_to_look_at(connection, now=now)
        for item in items:
            try:
                settled += await self._look_at(item)
            except DatabaseUnavailable:
                raise
            except Exception:
                # A defect over one item must not keep the others, or the sending, from going on.
                logger.exception("what is in doubt on %s was not compared", item.subscription_item)
        if raised or settled:
            self._on_due()
        return settled

    async def _look_at(self, item: DoubtfulItem) -> list[Settled]:
        async with transaction(self._engine) as connection:
            look = await store.begin_look(
                connection, item, now=self._clock.now(), worker=self._worker
            )
        if look is None:
            return []
        try:
            summaries = await self._client.usage_record_summaries(
                item.subscription_item, limit=PERIODS
            )
        except StripeError as error:
            await self._could_not_read(look, error)
            return []
        async with transaction(self._engine) as connection:
            settled: list[Settled] = []
            if await store.resume_look(connection, look):
                for found in await _compared(connection, look, summaries):
                    settled += await self._write(connection, found)
            await self._release(connection, look)
        for record in settled:
            logger.info(
                "usage record %d of %s is settled: its increment was %s",
                record.id,
                record.subscription,
                "executed" if record.executed else "not executed",
            )
        return settled

    async def _write(self, connection: AsyncConnection, found: Compared) -> list[Settled]:
        if found.executed:
            return await store.settle(
                connection, found.executed, detail=found.detail, now=self._clock.now()
            )
        await store.explain_doubt(connection, dict.fromkeys(found.records, found.detail))
        return []

    async def _could_not_read(self, look: Look, error: StripeError) -> None:
        logger.warning("the summaries of %s: %s", look.item.subscription_item, error)
        detail = f"the summaries could not be read: {error}"
        stop = stop_of(error)
        async with transaction(self._engine) as connection:
            if stop is not None:
                await the_line.stop_line(connection, stop, str(error), now=self._clock.now())
            if await store.resume_look(connection, look):
                doubtful = [r.id for r in look.opened if r.difference is not None]
                await store.explain_doubt(connection, dict.fromkeys(doubtful, detail))
            await self._release(connection, look)

    async def _release(self, connection: AsyncConnection, look: Look) -> None:
        """End the lease, if it is still ours."""
        if await store.still_leased(connection, look):
            await release_lanes(connection, [look.item.subscription], now=self._clock.now())


async def _compared(
    connection: AsyncConnection, look: Look, summaries: Sequence[UsageRecordSummary]
) -> list[Compared]:
    """What each of Stripe's periods says of the increments in doubt in it."""
    compared = []
    places = {r.id: period_of(r.timestamp, summaries) for r in look.opened}
    lost = tuple(r.id for r in look.opened if r.difference is not None and places[r.id] is None)
    if lost:
        compared.append(Compared({}, "Stripe shows no period with the record's second", lost))
    for summary in {s.id: s for s in places.values() if s is not None}.values():
        opened = [r for r in look.opened if in_period(r.timestamp, summary)]
        if any(r.difference is not None for r in opened):
            reported = await store.reported_between(
                connection, look.item, summary.period_start, summary.period_end
            )
            compared.append(compare(summary, reported, opened))
    return compared
