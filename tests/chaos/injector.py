"""Carries out the schedule: each fault, its end, and the wait until all is well again."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from tests.chaos.changes import Change
from tests.chaos.kinds import PROCESS_KINDS, STRIPE_KINDS
from tests.chaos.messages import new_secret
from tests.chaos.observing import Observer
from tests.chaos.plant import Plant
from tests.chaos.recovery import Recoveries
from tests.chaos.replica import Replica
from tests.chaos.schedule import Planned
from tests.chaos.sender import TAKEN, Sender
from tests.chaos.stripe_faults import stripe_fault
from tests.chaos.world import STEP

MET_WITHIN = 60.0
# While the line is stopped one call after the other probes it, each after a longer wait: faults
# that piled up for them would be an outage of minutes that nobody planned.
MOST_UNMET = 2
POLL = 0.1
# Stripe forgets a key after a day: nobody may be kept waiting for an answer so long.
MOST_UNANSWERED = 10 * 3_600
SETTLED_WITHIN = 60.0
AT_WORK_WITHIN = 3.0
SKEW = (3.0, 15.0)
STORED = ("stored_500", "stored_500_executed")

Doing = Callable[[Planned, random.Random], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Lengths:
    """Seconds at most: of a pause, of what is down, of an outage."""

    pause: float = 8.0
    down: float = 3.0
    outage: float = 5.0


class Injector:
    """One run's faults. Those of one process come one after the other, all others overlap."""

    def __init__(
        self,
        plant: Plant,
        sender: Sender,
        observer: Observer,
        changes: tuple[Change, ...],
        lengths: Lengths,
    ) -> None:
        self._plant = plant
        self._sender = sender
        self._observer = observer
        self._changes = list(changes)
        self._lengths = lengths
        self._database = asyncio.Lock()
        self._middle = asyncio.Lock()
        # A stored 500 says never whether it counted. Where the period ends before the record is
        # set again, only somebody can find out, and it is held: tested elsewhere.
        self._periods = asyncio.Lock()
        self._unmet = asyncio.Semaphore(MOST_UNMET)
        self.recoveries = Recoveries()
        self.on_clock_moved: Callable[[], None] = lambda: None
        self._doings: dict[str, Doing] = {
            **{kind.name: self._stripe for kind in STRIPE_KINDS},
            **dict.fromkeys(STORED, self._stored),
            **{kind.name: getattr(self, f"_{kind.name}") for kind in PROCESS_KINDS},
        }

    async def inject(self, planned: Planned) -> None:
        """Do it, and wait until all is well again."""
        dice = random.Random(planned.seed)  # noqa: S311 - a run that repeats itself
        await self._doings[planned.kind](planned, dice)

    # What meets calls to Stripe

    async def _stripe(self, planned: Planned, dice: random.Random) -> None:
        kind = planned.kind
        async with self._unmet:
            while await self._observer.line_stopped():
                await asyncio.sleep(POLL)
            after = await self._observer.newest_attempt()
            seen, fault = await self._until_met(stripe_fault(kind, dice))
        if not fault["met"]:
            self.recoveries.skipped[kind] += 1
            return
        self.recoveries.injected[kind] += 1
        self.recoveries.met[kind] += fault["met"]
        met = fault["last_met"]
        await self.recoveries.until(
            kind,
            partial(self._observer.settled, met["object_id"], met["idempotency_key"], after),
            since=seen,
            what=f"settled {met['idempotency_key']}",
        )

    async def _until_met(self, fault: dict[str, Any]) -> tuple[float, dict[str, Any]]:
        """Inject it until it has met all that it meets: since when (monotonic), and the fault."""
        stripe = self._plant.stripe
        identifier = await stripe.inject(fault)
        deadline = time.monotonic() + MET_WITHIN
        seen = time.monotonic()
        while True:
            found = (await stripe.faults())[identifier]
            if found["met"] == fault["times"] or time.monotonic() > deadline:
                await stripe.control("DELETE", f"/faults/{identifier}")
                return seen, found
            # From the last look at which it had not met all.
            seen = time.monotonic()
            await asyncio.sleep(POLL)

    async def _stored(self, planned: Planned, dice: random.Random) -> None:
        async with self._periods:
            await self._stripe(planned, dice)

    async def _stripe_503(self, planned: Planned, dice: random.Random) -> None:
        async with self._middle:
            stripe = self._plant.stripe
            fault = await stripe.inject({"kind": "status", "status": 503, "times": None})
            await asyncio.sleep(dice.uniform(0.5, self._lengths.outage))
            met = (await stripe.faults())[fault]["met"]
            await stripe.control("DELETE", f"/faults/{fault}")
            self._count(planned.kind, met)
            await self._next_call(planned.kind)

    async def _stripe_hangs(self, planned: Planned, dice: random.Random) -> None:
        sandbox = self._plant.sandbox
        async with self._middle:
            sandbox.pause()
            await asyncio.sleep(dice.uniform(0.5, self._lengths.outage))
            sandbox.resume()
            self._count(planned.kind)
            await self._next_call(planned.kind)

    # What meets processes

    async def _kill_worker(self, planned: Planned, dice: random.Random) -> None:
        replica = dice.choice(self._plant.booking)
        async with replica.busy:
            tokens = await self._at_work(replica)
            since = time.monotonic()
            await replica.kill()
            await self._down(planned, dice)
            replica.start()
            await self._taken_up(planned.kind, tokens, since)

    async def _kill_serve(self, planned: Planned, dice: random.Random) -> None:
        replica = dice.choice(self._plant.serves)
        async with replica.busy:
            since = time.monotonic()
            await replica.kill()
            await self._down(planned, dice)
            replica.start()
            await self._receives(planned.kind, replica, since)

    async def _restart(self, planned: Planned, dice: random.Random) -> None:
        replica = dice.choice(self._plant.serves)
        async with replica.busy:
            since = time.monotonic()
            await replica.stop()
            self._count(planned.kind)
            replica.start()
            await self._receives(planned.kind, replica, since)

    async def _pause_worker(self, planned: Planned, dice: random.Random) -> None:
        replica = dice.choice(self._plant.booking)
        async with replica.busy:
            tokens = await self._at_work(replica)
            since = time.monotonic()
            await self._pause(replica, planned, dice)
            await self._taken_up(planned.kind, tokens, since)

    async def _pause_serve(self, planned: Planned, dice: random.Random) -> None:
        replica = dice.choice(self._plant.serves)
        async with replica.busy:
            await self._pause(replica, planned, dice)
            await self._receives(planned.kind, replica, time.monotonic())

    async def _pause(self, replica: Replica, planned: Planned, dice: random.Random) -> None:
        replica.pause()
        try:
            await asyncio.sleep(dice.uniform(0.3, self._lengths.pause))
        finally:
            replica.resume()
        self._count(planned.kind)

    async def _clock_skew(self, planned: Planned, dice: random.Random) -> None:
        replica = dice.choice(self._plant.booking)
        async with replica.busy:
            replica.clock.put(dice.choice((-1, 1)) * dice.uniform(*SKEW))
            await asyncio.sleep(dice.uniform(0.5, self._lengths.pause))
            replica.clock.put(0)
            self._count(planned.kind)
            after = await self._observer.newest_attempt()
            await self.recoveries.until(
                planned.kind,
                partial(self._observer.sent_by, replica.identity, after),
                since=time.monotonic(),
                what=f"{replica.name} reported a record",
            )

    # What meets the database, clocks, mappings and secrets

    async def _database_restart(self, planned: Planned, dice: random.Random) -> None:
        async with self._database:
            await self._plant.database.restart_immediately(away=dice.uniform(0, self._lengths.down))
            since = time.monotonic()
            self._count(planned.kind)
            await asyncio.gather(
                *(
                    self._receives(f"{planned.kind}: webhooks", serve, since)
                    for serve in self._plant.serves
                    if not serve.busy.locked()
                ),
                self._next_call(f"{planned.kind}: records"),
            )

    async def _clock_forward(self, planned: Planned, _: random.Random) -> None:
        async with self._periods, self._plant.turn:
            deadline = time.monotonic() + SETTLED_WITHIN
            while (at := await self._observer.oldest_unanswered()) is not None and (
                at < self._plant.now + STEP - MOST_UNANSWERED
            ):
                if time.monotonic() > deadline:
                    self.recoveries.skipped[planned.kind] += 1
                    return
                await asyncio.sleep(POLL)
            await self._plant.clock_forward()
        self._count(planned.kind)
        self.on_clock_moved()
        await self._next_call(planned.kind)

    async def _mapping_change(self, planned: Planned, _: random.Random) -> None:
        async with self._plant.turn:
            if not self._changes:
                self.recoveries.skipped[planned.kind] += 1
                return
            change = self._changes.pop(0)
            since = time.monotonic()
            await self._plant.change(change)
        self._count(planned.kind)
        await self.recoveries.until(
            planned.kind,
            partial(self._nothing_moves, change.subject),
            since=since,
            what=f"{change} was carried out",
        )

    async def _nothing_moves(self, subject: str | None) -> bool:
        return not await self._observer.unmoved(subject)

    async def _secret_rotation(self, planned: Planned, dice: random.Random) -> None:
        """As Svix rotates: both for a while, in which the operator sets both and restarts."""
        plant, sender = self._plant, self._sender
        since = time.monotonic()
        both = [sender.secrets[-1], new_secret(dice)]
        sender.secrets = both
        plant.secrets = both
        for serve in plant.serves:
            async with serve.busy:
                await serve.stop()
                serve.start()
                await serve.answering("/healthz")
        sender.secrets = both[1:]
        plant.secrets = both[1:]
        self._count(planned.kind)
        for serve in plant.serves:
            await self._receives(planned.kind, serve, since)

    # Counting, and the ends of faults

    def _count(self, kind: str, met: int = 1) -> None:
        self.recoveries.injected[kind] += 1
        self.recoveries.met[kind] += met

    async def _down(self, planned: Planned, dice: random.Random) -> None:
        self._count(planned.kind)
        await asyncio.sleep(dice.uniform(0, self._lengths.down))

    async def _at_work(self, replica: Replica) -> list[str]:
        """The leases that a process holds, as soon as it holds any: then a kill is felt most."""
        deadline = time.monotonic() + AT_WORK_WITHIN
        while not (tokens := await self._observer.leases(replica.identity)):
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(POLL / 5)
        return tokens

    async def _taken_up(self, kind: str, tokens: list[str], since: float) -> None:
        """Whoever takes up what a process had in its hands."""
        if tokens:
            await self.recoveries.until(
                kind,
                lambda: self._observer.taken_up(tokens, self._plant.now),
                since=since,
                what=f"{len(tokens)} leases were taken up",
            )

    async def _receives(self, kind: str, replica: Replica, since: float) -> None:
        """Until a process takes a webhook: one that it has, so that only the way is tried."""
        if not self._sender.accepted:
            return
        message = self._sender.accepted[-1]

        async def taken() -> bool:
            return await self._sender.resend(message, replica.url) in TAKEN

        await self.recoveries.until(kind, taken, since=since, what=f"{replica.name} took a webhook")

    async def _next_call(self, kind: str) -> None:
        """Until Stripe executes a call."""
        before = await self._plant.stripe.executed()
        since = time.monotonic()

        async def gone_on() -> bool:
            return await self._plant.stripe.executed() > before

        await self.recoveries.until(kind, gone_on, since=since, what="a record was reported")
