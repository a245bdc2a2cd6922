"""Step 3, send: claim due records -> POST to Stripe -> write down the answer. One commit each.

One POST at a time per subscription, across all replicas (the lane's lease); a pace for all (the
token bucket); a bound on what is in flight; a stop of the whole line when Stripe is down or
refuses the key. SIGTERM lets what is in flight finish; a kill loses nothing, because the claim has
written down which POST was about to leave. What became of an increment that was lost so is settled
by Stripe's totals (`Settler`).
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from app.clock import Clock
from app.db import transaction
from app.dispatch import lanes as store
from app.dispatch import line as the_line
from app.dispatch.claiming import RECORDS_PER_LANE, claim_records
from app.dispatch.decide import Verdict
from app.dispatch.doubt import Settler
from app.dispatch.lanes import Lane
from app.dispatch.reasons import HoldReason
from app.dispatch.records import ClaimedRecord
from app.dispatch.sending import Outcome, attempt
from app.dispatch.writing import DATABASE_PAUSE, Finished, OutcomeWriter
from app.errors import DatabaseUnavailable
from app.stripe_client import StripeClient, TokenBucket

logger = logging.getLogger(__name__)

IDLE_POLL = 1.0
RENEW_EVERY = store.LEASE / 3
LANES_PER_CLAIM = 32

# Called outside any transaction for a record whose item is gone, with what it is held for if a
# fresh look at Stripe does not help.
Resolver = Callable[[ClaimedRecord, HoldReason], Awaitable[None]]


class Dispatcher:
    """Sends due records until it is stopped. Any number may work on one database."""

    def __init__(
        self,
        engine: AsyncEngine,
        clock: Clock,
        client: StripeClient,
        *,
        rate: float,
        in_flight: int,
        resolver: Resolver,
        worker: str,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._client = client
        self._bucket = TokenBucket(rate, burst=1)
        self._in_flight = in_flight
        self._resolver = resolver
        self._worker = worker
        self._jitter = jitter
        self._writer = OutcomeWriter(engine, clock, worker=worker)
        self._settler = Settler(engine, clock, client, worker=worker, on_due=self.wake)
        self._wake = asyncio.Event()
        self._stopping = False
        self._leases: dict[UUID, float] = {}  # token -> until when it is certainly ours
        self._last_success: datetime | None = None
        self._outages = 0  # failures in a row that speak of Stripe and not of a record
        self._in_a_row: dict[int, int] = {}  # record -> its failures since its last success
        self._line_stopped = False
        self._waiting: set[asyncio.Task[None]] = set()  # for their turn: nothing is in flight

    def wake(self) -> None:
        """Something may be due: look now."""
        self._wake.set()

    def stop(self) -> None:
        """Claim nothing more; `run` returns when what is in flight has been written down."""
        self._stopping = True
        self._wake.set()

    async def run(self, *, grace: float) -> None:
        """Send until stopped; then give what is in flight `grace` seconds.

        Raises what nobody foresaw: a worker that writes nothing down must not look alive.
        """
        writer = asyncio.create_task(self._writer.run(), name="dispatch-writer")
        renewer = asyncio.create_task(self._renew(), name="dispatch-renewer")
        settler = asyncio.create_task(self._settler.run(), name="dispatch-settler")
        tasks = (writer, renewer, settler)
        for task in tasks:
            task.add_done_callback(lambda _: self.wake())
        working: set[asyncio.Task[None]] = set()
        try:
            await self._at_start()
            while not self._stopping:
                self._wake.clear()
                for task in tasks:
                    if task.done():
                        task.result()
                claimed = await self._claim(self._in_flight - len(working))
                for lane in claimed:
                    task = asyncio.create_task(self._work(lane), name=f"lane {lane.subscription}")
                    working.add(task)
                    task.add_done_callback(working.discard)
                if not claimed:
                    await self._pause(working)
        finally:
            settler.cancel()  # first: the lease of its look ends with the others
            await asyncio.gather(settler, return_exceptions=True)
            await self._wind_up(working, writer, renewer, grace)

    async def _wind_up(
        self,
        working: set[asyncio.Task[None]],
        writer: asyncio.Task[None],
        renewer: asyncio.Task[None],
        grace: float,
    ) -> None:
        """Let what is in flight finish, write it down, and hand the leases back."""
        for task in set(self._waiting):
            task.cancel()
        if writer.done():
            grace = 0.0
        if working:
            await asyncio.wait(set(working), timeout=grace)
        for task in set(working):
            task.cancel()
        await asyncio.gather(*set(working), return_exceptions=True)
        try:
            await asyncio.wait_for(self._writer.drained(), timeout=grace)
            async with transaction(self._engine) as connection:
                await store.release_all_of(connection, self._worker)
        except (TimeoutError, DatabaseUnavailable):
            logger.warning("not all answers could be written down; they are asked for again")
        for task in (writer, renewer):
            task.cancel()
        await asyncio.gather(writer, renewer, return_exceptions=True)

    async def _at_start(self) -> None:
        """A worker that starts may have a mended key: a stopped line is probed at once."""
        try:
            async with transaction(self._engine) as connection:
                await the_line.probe_soon(connection, now=self._clock.now())
        except DatabaseUnavailable:
            logger.warning("the database is not available yet")

    async def _pause(self, working: set[asyncio.Task[None]]) -> None:
        """Wait until woken, until something falls due, or until a slot is free."""
        timeout = IDLE_POLL
        full = len(working) >= self._in_flight
        if not full:
            try:
                now = self._clock.now()
                async with transaction(self._engine) as connection:
                    due = await store.next_due(connection, now)
                if due is not None:
                    timeout = min(max((due - now).total_seconds(), 0.005), IDLE_POLL)
            except DatabaseUnavailable:
                timeout = DATABASE_PAUSE
        waiting = asyncio.create_task(self._wake.wait())
        await asyncio.wait(
            {waiting, *working} if full else {waiting},
            timeout=timeout,
            return_when=asyncio.FIRST_COMPLETED,
        )
        waiting.cancel()

    async def _claim(self, free: int) -> list[Lane]:
        """Lease lanes and write down what is about to leave. One commit."""
        if free <= 0:
            return []
        now = self._clock.now()
        until = time.monotonic() + store.LEASE
        limit, per_lane = min(free, LANES_PER_CLAIM), RECORDS_PER_LANE
        try:
            async with transaction(self._engine) as connection:
                probe = (await the_line.read_line(connection)).stopped
                if self._line_stopped and not probe:
                    self._outages = 0  # opened by another worker's probe
                self._line_stopped = probe
                if probe:
                    if not await the_line.take_probe(connection, now=now):
                        return []
                    limit = per_lane = 1
                tokens = await store.claim_lanes(
                    connection, now=now, worker=self._worker, limit=limit
                )
                records = await claim_records(connection, tokens, now=now, per_lane=per_lane)
                by_lane: dict[str, list[ClaimedRecord]] = {name: [] for name in tokens}
                for record in records:
                    by_lane[record.subscription].append(record)
                await store.release_lanes(
                    connection, [name for name, held in by_lane.items() if not held]
                )
                if probe and not records:
                    await the_line.return_probe(connection, now=now)
        except DatabaseUnavailable:
            logger.warning("the database is not available; nothing is claimed")
            await asyncio.sleep(DATABASE_PAUSE)
            return []
        lanes = [
            Lane(name, tokens[name], tuple(held), probe) for name, held in by_lane.items() if held
        ]
        self._leases.update((lane.token, until) for lane in lanes)
        return lanes

    async def _work(self, lane: Lane) -> None:
        """Send a lane's records one after the other, and have the outcomes written down."""
        finished = Finished(lane, [], list(lane.records))
        try:
            for record in lane.records:
                if not self._may_send(lane):
                    break
                await self._turn()
                if not self._may_send(lane):
                    break
                finished.unsent.remove(record)
                outcome = self._learn(
                    await attempt(
                        self._client,
                        record,
                        clock=self._clock,
                        last_success=self._last_success,
                        in_a_row=self._in_a_row.get(record.id, 0),
                        jitter=self._jitter,
                        look_first=lane.probe,
                    )
                )
                finished.outcomes.append(outcome)
                if outcome.decision is not None:
                    break  # it may be wrong for the whole subscription: look again first
        finally:
            self._writer.put(finished)
        try:
            await finished.written.wait()
        finally:
            self._leases.pop(lane.token, None)
        for outcome in finished.outcomes:
            await self._resolve(outcome)
        self._wake.set()

    async def _turn(self) -> None:
        """Wait for the pace; a stop does not wait with us (a pause can last ten minutes)."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine runs in a task
        self._waiting.add(task)
        try:
            await self._bucket.acquire()
        finally:
            self._waiting.discard(task)

    def _may_send(self, lane: Lane) -> bool:
        """Whether the lease is certainly still ours, and the line open (or this its probe)."""
        if self._stopping or (self._line_stopped and not lane.probe):
            return False
        return time.monotonic() < self._leases.get(lane.token, 0.0)

    def _learn(self, outcome: Outcome) -> Outcome:
        """Take from an outcome what concerns all records."""
        decision = outcome.decision
        if decision is None:
            self._last_success = self._clock.now()
            self._outages = 0
            self._in_a_row.pop(outcome.attempt.record.id, None)
            return outcome
        record = outcome.attempt.record.id
        if decision.verdict in (Verdict.RETRY, Verdict.NEW_KEY):
            self._in_a_row[record] = self._in_a_row.get(record, 0) + 1
        else:
            self._in_a_row.pop(record, None)
        if decision.pause:
            self._bucket.pause(decision.pause)
        if decision.verdict is Verdict.STOP_LINE:
            self._line_stopped = True
        if decision.outage:
            self._outages += 1
            if self._line_stopped or self._outages >= the_line.OUTAGE_AFTER:
                self._line_stopped = True
                return replace(outcome, ends_outage_run=True)
        return outcome

    async def _resolve(self, outcome: Outcome) -> None:
        decision = outcome.decision
        if decision is None or decision.verdict is not Verdict.RESOLVE or decision.hold is None:
            return
        try:
            await self._resolver(outcome.attempt.record, decision.hold)
        except DatabaseUnavailable:
            logger.warning("a record could not be resolved anew; it is sent, and resolved, again")
        except Exception:
            # The record is due again in a while, so it is seen again; the others go on.
            logger.exception("usage record %d not resolved", outcome.attempt.record.id)

    async def _renew(self) -> None:
        """Keep the leases of what is being worked on.

        With a lost lease nothing more is sent. A call that is in flight then may meet that of the
        lane's new holder at Stripe; both carry the same key, and breaking ours off would not call
        it back, but lose its answer for the audit trail.
        """
        while True:
            await asyncio.sleep(RENEW_EVERY)
            tokens = list(self._leases)
            if not tokens:
                continue
            until = time.monotonic() + store.LEASE
            lost: frozenset[UUID] = frozenset()
            try:
                async with asyncio.timeout(RENEW_EVERY), transaction(self._engine) as connection:
                    renewal = await store.renew(connection, tokens)
                lost = renewal.lost
                self._leases.update(
                    (token, until) for token in renewal.renewed if token in self._leases
                )
            except (DatabaseUnavailable, TimeoutError):
                logger.warning("leases could not be renewed")
            for token in lost:
                self._leases.pop(token, None)
