"""Step 3, send: claim due records -> POST to Stripe -> write down the answer. One commit each.

One POST at a time per subscription, across all replicas (the lane's lease); one pace for all
(`Pace`); a bound on what is in flight (`Flight`); a stop of the whole line when Stripe is down or
refuses the key. SIGTERM lets what is in flight finish; a kill loses nothing, because the claim has
written down which POST was about to leave. What became of an increment that was lost so is settled
by Stripe's totals (`Settler`).
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Coroutine

from sqlalchemy.ext.asyncio import AsyncEngine

from app.clock import Clock
from app.db import DATABASE_PAUSE, transaction
from app.dispatch import lanes as store
from app.dispatch import line as the_line
from app.dispatch.claiming import RECORDS_PER_LANE
from app.dispatch.claims import LANES_PER_CLAIM, Claims
from app.dispatch.decide import Decision, Verdict
from app.dispatch.doubt import Settler
from app.dispatch.experience import Experience
from app.dispatch.flight import Flight
from app.dispatch.lanes import Lane
from app.dispatch.leases import Leases
from app.dispatch.pace import Pace, limits_of
from app.dispatch.probing import probe_by_reading
from app.dispatch.reasons import HoldReason
from app.dispatch.records import ClaimedRecord
from app.dispatch.sending import Outcome, attempt
from app.dispatch.writing import Finished, OutcomeWriter
from app.errors import DatabaseUnavailable
from app.stripe_client import StripeClient
from app.waiting import set_within

logger = logging.getLogger(__name__)

IDLE_POLL = 1.0
SOONEST_LOOK = 0.005
# Lanes that are held at once, as a multiple of what may be in flight: while answers cannot be
# written down, no more are claimed.
MOST_HELD = 3

# Called outside any transaction for a record whose item is gone, with what it is held for if a
# fresh look at Stripe does not help.
Resolver = Callable[[ClaimedRecord, HoldReason], Awaitable[None]]
Work = Coroutine[None, None, None]


class Dispatcher:
    """Sends due records until it is stopped. Any number may work on one database.

    `rate` is where the pace begins, in calls a second, and `ceiling` what it rises to at most (by
    default it does not rise): of the `account`, and so of all that work for it on this database.
    """

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
        ceiling: float | None = None,
        account: str = "test",
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._client = client
        self._pace = Pace(engine, limits_of(account, start=rate, ceiling=ceiling))
        self._flight = Flight(in_flight)
        self._most_held = MOST_HELD * in_flight
        self._resolver = resolver
        self._worker = worker
        self._jitter = jitter
        self._writer = OutcomeWriter(engine, clock, worker=worker)
        self._settler = Settler(engine, clock, client, worker=worker, on_due=self.wake)
        self._leases = Leases(engine, clock)
        self._experience = Experience()
        self._claims = Claims(engine, clock, self._leases, self._experience, worker=worker)
        self._wake = asyncio.Event()
        self._stopping = False
        self._open = 0  # lanes that have calls to make
        self._calling = 0  # those of them that wait for Stripe
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
        renewer = asyncio.create_task(self._leases.keep(), name="dispatch-renewer")
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
                if not await self._fill(working):
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
        await self._pace.close()

    async def _at_start(self) -> None:
        """A worker that starts may have a mended key: a stopped line is probed at once."""
        try:
            async with transaction(self._engine) as connection:
                await the_line.probe_soon(connection, now=self._clock.now())
        except DatabaseUnavailable:
            logger.warning("the database is not available yet")

    async def _pause(self, working: set[asyncio.Task[None]]) -> None:
        """Wait until woken, or until something falls due."""
        timeout = IDLE_POLL
        if len(working) >= self._most_held:
            timeout = DATABASE_PAUSE
        elif self._claims.next_look is not None:
            timeout = min(max(self._claims.next_look, SOONEST_LOOK), IDLE_POLL)
        await set_within(self._wake, timeout)

    async def _fill(self, working: set[asyncio.Task[None]]) -> bool:
        """Claim lanes and begin with them. Returns whether there may be more to claim at once."""
        room = min(self._room(), self._most_held - len(working), LANES_PER_CLAIM)
        if room < self._worthwhile():
            self._claims.put_off()
            return False
        lanes = await self._claims.claim(room)
        if lanes is None:
            self._begin(working, self._look(), "probe")
            return False
        self._open += len(lanes)
        for lane in lanes:
            self._begin(working, self._work(lane), f"lane {lane.subscription}")
        return self._claims.more

    def _begin(self, working: set[asyncio.Task[None]], work: Work, name: str) -> None:
        task = asyncio.create_task(work, name=name)
        working.add(task)
        task.add_done_callback(working.discard)

    def _room(self) -> int:
        """How many lanes may be claimed: for what may be in flight, and for half as many that wait
        in front of it, so that no place is empty for the time of a claim; but never for more than
        the pace will soon let through."""
        allowed = self._flight.allowed
        waiting = self._open - self._calling
        return min(allowed + allowed // 2 - self._open, self._pace.ahead - waiting)

    def _worthwhile(self) -> int:
        """How many lanes are worth a claim, which costs for one as much as for many."""
        return max(min(self._flight.allowed // 2, self._pace.ahead, LANES_PER_CLAIM) // 2, 1)

    def _moved_on(self) -> None:
        """A lane waits no longer, or has no more calls to make: there may be room for others."""
        if self._claims.more and self._room() >= self._worthwhile():
            self._wake.set()

    async def _work(self, lane: Lane) -> None:
        """Send a lane's records one after the other, and have the outcomes written down."""
        finished = Finished(lane, [], list(lane.records))
        try:
            await self._waits(self._flight.enter())
            try:
                await self._send(lane, finished)
            finally:
                self._flight.leave()
        finally:
            self._open -= 1
            if lane.probe:
                self._leases.probing = False
            self._writer.put(finished)
            self._moved_on()
        try:
            await finished.written.wait()
        finally:
            self._leases.drop(lane.token)
            self._experience.written(finished.outcomes)
        for outcome in finished.outcomes:
            await self._resolve(outcome)
        if finished.due_again:
            self._wake.set()

    async def _send(self, lane: Lane, finished: Finished) -> None:
        for number, record in enumerate(lane.records):
            if not self._may_send(lane):
                return
            if number >= RECORDS_PER_LANE and self._claims.more:
                return  # others have come meanwhile
            if not self._pace.turn_now():
                await self._waits(self._pace.turn())
                if not self._may_send(lane):
                    return
            finished.unsent.remove(record)
            left_at = time.monotonic()
            outcome = await self._call(record, look_first=lane.probe)
            finished.outcomes.append(outcome)
            if outcome.decision is not None:
                await self._heed(outcome.decision, age=time.monotonic() - left_at)
                return  # it may be wrong for the whole subscription: look again first

    async def _call(self, record: ClaimedRecord, *, look_first: bool) -> Outcome:
        self._calling += 1
        self._moved_on()
        try:
            outcome = await attempt(
                self._client,
                record,
                clock=self._clock,
                last_success=self._experience.last_success,
                in_a_row=self._experience.failures_of(record.id),
                jitter=self._jitter,
                look_first=look_first,
            )
        finally:
            self._calling -= 1
        if outcome.decision is None:
            self._pace.succeeded()
            self._flight.succeeded()
        return self._experience.learn(outcome)

    async def _heed(self, decision: Decision, *, age: float) -> None:
        """Slow down where Stripe says so."""
        if decision.too_many:
            self._flight.halve(age=age)
        if decision.pause or decision.too_fast:
            await self._pace.slow_down(decision.pause, halve=decision.too_fast, age=age)

    async def _look(self) -> None:
        """Probe the line by a small read."""
        try:
            await self._waits(probe_by_reading(self._engine, self._clock, self._client))
        finally:
            self._leases.probing = False
        self._wake.set()

    async def _waits(self, what: Awaitable[None]) -> None:
        """Wait for what a stop does not wait for (a pause can last ten minutes)."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine runs in a task
        self._waiting.add(task)
        try:
            await what
        finally:
            self._waiting.discard(task)

    def _may_send(self, lane: Lane) -> bool:
        """Whether the lease is certainly still ours, and the line open (or this its probe)."""
        if self._stopping or (self._experience.line_stopped and not lane.probe):
            return False
        return self._leases.holds(lane.token)

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
