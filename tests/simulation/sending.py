"""Step 3 in big batches: the real claim, attempt, decision and writing down, without the waiting.

What the real dispatcher does besides (pace, leases that are renewed, tasks) says when a POST leaves
and not which: a year of them in real time would take hours.
"""

from collections.abc import Awaitable, Callable
from typing import cast

from sqlalchemy.ext.asyncio import AsyncEngine

from app.clock import Clock
from app.db import transaction
from app.dispatch.claiming import claim_records
from app.dispatch.decide import Verdict
from app.dispatch.lanes import Lane, claim_lanes, release_lanes
from app.dispatch.reasons import HoldReason
from app.dispatch.records import ClaimedRecord
from app.dispatch.sending import Outcome, attempt
from app.dispatch.writing import Finished, OutcomeWriter
from app.stripe_client import StripeClient
from tests.simulation.stripe import SimulatedStripe

WORKER = "simulation"
LANES, RECORDS_PER_LANE = 100, 200


class Sender:
    """Sends what is due, one record after the other for each subscription."""

    def __init__(
        self,
        engine: AsyncEngine,
        clock: Clock,
        stripe: SimulatedStripe,
        resolver: Callable[[ClaimedRecord, HoldReason], Awaitable[None]],
    ) -> None:
        self._engine = engine
        self._clock = clock
        # Of the client an attempt uses this one call; `probe` belongs to a line that is stopped.
        self._client = cast(StripeClient, stripe)
        self._resolver = resolver
        self._writer = OutcomeWriter(engine, clock, worker=WORKER)

    async def send(self) -> int:
        """Send what is due now, once; returns how many POSTs left."""
        now = self._clock.now()
        async with transaction(self._engine) as connection:
            claim = await claim_lanes(connection, now=now, worker=WORKER, limit=LANES)
            tokens = claim.leased
            records = await claim_records(connection, tokens, now=now, per_lane=RECORDS_PER_LANE)
            held: dict[str, list[ClaimedRecord]] = {name: [] for name in tokens}
            for record in records:
                held[record.subscription].append(record)
            empty = [name for name, found in held.items() if not found]
            await release_lanes(connection, empty)
        finished = [
            await self._work(Lane(name, tokens[name], tuple(found)))
            for name, found in held.items()
            if found
        ]
        if finished:
            await self._writer._write(finished)
        for done in finished:
            for outcome in done.outcomes:
                await self._resolve(outcome)
        return sum(len(done.outcomes) for done in finished)

    async def _work(self, lane: Lane) -> Finished:
        finished = Finished(lane, [], list(lane.records))
        for record in lane.records:
            finished.unsent.remove(record)
            outcome = await attempt(
                self._client,
                record,
                clock=self._clock,
                last_success=None,
                in_a_row=0,
                jitter=lambda: 0.5,
            )
            finished.outcomes.append(outcome)
            if outcome.decision is not None:
                break  # it may be wrong for the whole subscription: look again first
        return finished

    async def _resolve(self, outcome: Outcome) -> None:
        decision = outcome.decision
        if decision is None or decision.verdict is not Verdict.RESOLVE or decision.hold is None:
            return
        await self._resolver(outcome.attempt.record, decision.hold)
