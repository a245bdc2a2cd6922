"""Writing down what Stripe answered: one commit for all that finished while the last one ran."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.clock import Clock
from app.db import DATABASE_PAUSE, transaction
from app.dispatch import lanes
from app.dispatch import line as the_line
from app.dispatch import records as store
from app.dispatch.claiming import withdraw_claims
from app.dispatch.lanes import Lane
from app.dispatch.records import ClaimedRecord
from app.dispatch.sending import Outcome
from app.errors import DatabaseUnavailable, StatementTimeout

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Finished:
    """A lane that was worked on, to be written down and released.

    `unsent`: records that were claimed, and for which nothing left. `due_again`: there may be more
    to send in the lane, now or later.
    """

    lane: Lane
    outcomes: list[Outcome]
    unsent: list[ClaimedRecord] = field(default_factory=list)
    written: asyncio.Event = field(default_factory=asyncio.Event)
    due_again: bool = True


class OutcomeWriter:
    """Takes finished lanes; writes attempts, records, the line, and ends the leases."""

    def __init__(self, engine: AsyncEngine, clock: Clock, *, worker: str) -> None:
        self._engine = engine
        self._clock = clock
        self._worker = worker
        self._queue: asyncio.Queue[Finished] = asyncio.Queue()

    def put(self, finished: Finished) -> None:
        """Have a lane written down; its `written` is set when that is committed."""
        self._queue.put_nowait(finished)

    async def drained(self) -> None:
        """Wait until all that was put is written down."""
        await self._queue.join()

    async def run(self) -> None:
        """Write until cancelled. While the database is away the answers wait here; if they are
        lost with the process, they are asked for again under the same keys."""
        while True:
            batch = [await self._queue.get()]
            while not self._queue.empty():
                batch.append(self._queue.get_nowait())
            await self._write_surely(batch)
            for finished in batch:
                finished.written.set()
                self._queue.task_done()

    async def _write_surely(self, batch: Sequence[Finished]) -> None:
        while True:
            try:
                return await self._write(batch)
            except StatementTimeout:
                logger.warning("the database is slow; answers are written down in smaller batches")
                if len(batch) > 1:
                    half = len(batch) // 2
                    await self._write_surely(batch[:half])
                    batch = batch[half:]
                else:
                    await asyncio.sleep(DATABASE_PAUSE)
            except DatabaseUnavailable:
                logger.warning("the database is not available; answers wait to be written down")
                await asyncio.sleep(DATABASE_PAUSE)

    async def _write(self, batch: Sequence[Finished]) -> None:
        outcomes = [outcome for finished in batch for outcome in finished.outcomes]
        async with transaction(self._engine) as connection:
            await self._write_line(connection, batch)
            ours = await lanes.lock_leased(connection, [finished.lane for finished in batch])
            if outcomes:
                await store.write_attempts(
                    connection, [outcome.attempt for outcome in outcomes], worker=self._worker
                )
            kept = [finished for finished in batch if finished.lane.token in ours]
            updates = [
                outcome.update
                for finished in kept
                for outcome in finished.outcomes
                if outcome.update is not None
            ]
            if updates:
                await store.write_updates(connection, updates, now=self._clock.now())
            await withdraw_claims(
                connection, [record for finished in kept for record in finished.unsent]
            )
            next_due = await lanes.release_lanes(
                connection,
                [finished.lane.subscription for finished in kept],
                now=self._clock.now(),
            )
        for finished in kept:
            finished.due_again = next_due is not None
            for outcome in finished.outcomes:
                if outcome.update is not None and outcome.update.held is not None:
                    logger.warning(
                        "usage record %d of %s is held: %s (%s)",
                        outcome.update.id,
                        finished.lane.subscription,
                        outcome.update.held,
                        outcome.update.detail,
                    )

    async def _write_line(self, connection: AsyncConnection, batch: Sequence[Finished]) -> None:
        """Stop the line, or open it again, as the outcomes say."""
        now = self._clock.now()
        probes = [finished for finished in batch if finished.lane.probe]
        # What a probe found is newer than the answers to calls that left before the stop.
        outcomes = [outcome for finished in probes or batch for outcome in finished.outcomes]
        for outcome in outcomes:
            if outcome.stop is not None:
                await the_line.stop_line(
                    connection, outcome.stop, str(outcome.error), now=now, probed=bool(probes)
                )
                return
        if not probes:
            return
        if not outcomes:
            await the_line.return_probe(connection, now=now)
        # Any answer that is neither an outage nor a refusal of the key says that Stripe is there.
        elif await the_line.open_line(connection):
            logger.info("the line to Stripe is open again")
