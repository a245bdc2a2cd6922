"""The pace at which calls leave: this replica's part of what the account is allowed.

Slots are leased from the database (`shared_pace`) for those that wait for their turn, so the rate
is kept by all replicas together, to the instant. The pace is learnt: it rises by a little with
each success while it is what holds the calls back, and is halved when Stripe says that they come
too fast. A cap on what is in flight is no pace: 25 calls at 10 ms each are 2,500 a second.
"""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncEngine

from app.db import DATABASE_PAUSE, transaction
from app.dispatch import shared_pace as store
from app.dispatch.shared_pace import Lease, PaceLimits
from app.errors import DatabaseUnavailable

logger = logging.getLogger(__name__)

# Seconds of the pace that one lease takes at most: so replicas take turns, and a pause or a halving
# is felt by all.
LONGEST_LEASE = 0.2
# Slots lie a little wider apart than the rate allows: Stripe counts when calls arrive, and of two
# that are a second apart the first may leave 5 ms late, and the other be 10 ms quicker on its way.
MARGIN = 0.985
LATE_ALLOWED = 0.005
# Of more calls a second nobody counts so exactly. Slots may be used a little later then, so that a
# pace that holds nobody back costs a few leases a second and not a thousand.
DENSE_RATE = 100.0
DENSE_LATE_ALLOWED = 0.05
NO_LIMIT_RATE = 1_000.0
# Of 256 calls that take 0.2 s each all come back together: later than a lease of 0.2 s would last.
NO_LIMIT_LATE_ALLOWED = 1.0
# And seconds of the pace that a lease then takes at least: what is left unused of them is missed by
# nobody, and a lease that is used up keeps all waiting for the next.
DENSE_LEASE = 0.005
# Calls a second more for each success: from 10 to 20 a second in half a minute.
RAISED_BY_SUCCESS = 0.02
# And up to nine tenths of the pace at which Stripe complained: back in 11 seconds, not 35.
RETURNED_BY_SUCCESS = 0.1
KNOWN_GOOD = 0.9
LOWEST_RATE = 1.0
# Seconds more than usual that an answer is expected to take at most: all replicas wait so long.
MOST_LEAD = 1.0
# Lanes that wait for their turn at most, in seconds of the pace: more could not be sent sooner,
# and a record that is booked now and must be first would have to wait for them.
MOST_AHEAD = 0.5
FEWEST_AHEAD = 4


@dataclass(slots=True)
class _Slots:
    """Slots of one lease: so many from `first` on, in monotonic seconds, `spacing` apart."""

    first: float = 0.0
    spacing: float = 1.0
    number: int = 0
    next: int = 0
    used: int = 0

    @property
    def end(self) -> float:
        """When the last one is over."""
        return self.first + self.number * self.spacing

    def over(self, *, overdue: float) -> bool:
        """Whether none is left that is not before `overdue`."""
        return self.first + (self.number - 1) * self.spacing < overdue or self.next >= self.number

    def take(self, *, overdue: float, until: float = math.inf) -> float | None:
        """The next slot that is not before `overdue`, if there is one; nor after `until`."""
        passed = math.ceil((overdue - self.first) / self.spacing)
        self.next = max(self.next, passed)
        slot = self.first + self.next * self.spacing
        if self.next >= self.number or slot > until:
            return None
        self.next += 1
        self.used += 1
        return slot


def limits_of(account: str, *, start: float, ceiling: float | None) -> PaceLimits:
    """The limits of an account (`live` or `test`, and whose) from the settings."""
    highest = start if ceiling is None else ceiling
    lowest = min(start, highest)
    return PaceLimits(account, lowest, highest, min(LOWEST_RATE, lowest))


class Pace:
    """Gives each call its turn, first come, first served (where slots are dense, nearly so).

    `monotonic`, `sleep`: for tests.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        limits: PaceLimits,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._engine = engine
        self._limits = limits
        self._monotonic = monotonic
        self._sleep = sleep
        self._rate = limits.start
        self._slots = _Slots()
        self._pauses = 0  # so that a slot from before a pause is not used after it
        self._asking = 0
        self._successes = 0
        self._refused_at = 0.0  # the rate at which Stripe complained, if this replica was told
        self._late = 0.0
        self._offset = math.inf  # from the database's clock to `monotonic`
        self._lead = 0.0
        self._resume_at = 0.0
        self._begun = False
        self._ahead: asyncio.Task[None] | None = None
        # asyncio.Lock wakes its waiters first come, first served. Only the holder of the one
        # leases, and that of the other waits for its slot: of two that were due at once (the
        # process was paused) the later one would not sleep at all, and overtake the other.
        self._leasing = asyncio.Lock()
        self._leaving = asyncio.Lock()

    @property
    def ahead(self) -> int:
        """How many calls may usefully wait for their turn at once."""
        return max(int(self._rate * MOST_AHEAD), FEWEST_AHEAD)

    def turn_now(self) -> bool:
        """Whether a call may leave at once, as nobody waits and a slot is there; it is taken.

        Where slots are dense it may overtake those that wait: to let in one by one all that a lease
        kept waiting took longer than new ones took to come, and so each went the long way.
        """
        if self._rate <= DENSE_RATE and (self._asking or self._leaving.locked()):
            return False
        now, late = self._monotonic(), self._late_allowed
        if self._slots.take(overdue=now - late, until=now) is None:
            return False
        if self._rate > DENSE_RATE and now > self._slots.end + late / 2:
            self._lease_ahead()
        return True

    async def turn(self) -> None:
        """Wait until a call may leave. One that is cancelled leaves its slot unused."""
        if self._rate > DENSE_RATE:
            await self._leased()
            if self.turn_now():
                return
        while True:
            pauses, slot = await self._take()
            async with self._leaving:
                while (wait := slot - self._monotonic()) > 0:
                    await self._sleep(wait)
                if pauses == self._pauses and self._keeps(late=-wait):
                    return

    @property
    def _late_allowed(self) -> float:
        """For so many seconds a slot can still be used."""
        if self._rate <= DENSE_RATE:
            return LATE_ALLOWED
        return DENSE_LATE_ALLOWED if self._rate <= NO_LIMIT_RATE else NO_LIMIT_LATE_ALLOWED

    def _keeps(self, *, late: float) -> bool:
        """Whether a call may leave so many seconds after its slot: not in a bunch with the next."""
        if self._rate > DENSE_RATE:
            return True
        # The call that leaves a second after it must not come too soon after it.
        self._late = max(self._late, min(late, 1 / self._rate) - LATE_ALLOWED)
        return late <= 1 / self._rate

    def succeeded(self) -> None:
        """Stripe took a call."""
        self._successes += 1

    async def slow_down(self, pause: float, *, halve: bool, age: float) -> None:
        """No call leaves for `pause` seconds, on any replica; and afterwards half as many, if
        `halve`. `age`: how many seconds ago the refused call left."""
        self._forget()
        self._resume_at = max(self._resume_at, self._monotonic() + pause)
        try:
            async with transaction(self._engine) as connection:
                halved = await store.slow_down(
                    connection, self._limits, pause=pause, halve=halve, age=age
                )
        except DatabaseUnavailable:
            logger.warning("the database is not available; the others are not slowed down")
            return
        self._forget()  # what was leased meanwhile lies before the pause
        if halved is not None:
            self._rate = halved
            self._refused_at = halved * 2
            logger.warning("Stripe says that calls come too fast: now %.2f a second", halved)

    def _forget(self) -> None:
        self._pauses += 1
        self._slots = _Slots()
        self._successes = 0

    async def _take(self) -> tuple[int, float]:
        """The next slot, and how many pauses there were when it was leased."""
        self._asking += 1
        try:
            async with self._leasing:
                while True:
                    slot = self._slots.take(overdue=self._monotonic() - self._late_allowed)
                    if slot is not None:
                        return self._pauses, slot
                    await self._refill()
        finally:
            self._asking -= 1

    async def _leased(self) -> None:
        """Wait for a lease where no slot is left. All that wait go on at once: one by one, each
        behind a lock, 150 of them took longer than their slots last."""
        if self._slots.over(overdue=self._monotonic() - self._late_allowed):
            self._asking += 1
            try:
                await asyncio.wait({self._lease_ahead()})
            finally:
                self._asking -= 1

    def _lease_ahead(self) -> asyncio.Task[None]:
        """Before slots that are all due have passed: at 500 calls a second each other one had to
        wait for a lease."""
        if self._ahead is None or self._ahead.done():
            self._ahead = asyncio.create_task(self._lease_now(), name="pace-lease")
        return self._ahead

    async def _lease_now(self) -> None:
        async with self._leasing:
            await self._refill()

    async def close(self) -> None:
        """Lease nothing more by itself."""
        if self._ahead is not None:
            self._ahead.cancel()
            await asyncio.gather(self._ahead, return_exceptions=True)

    async def _refill(self) -> None:
        """Lease slots for those that wait; and where they are dense, for those that will.

        Not long ahead: what is leased cannot be paused by another replica.
        """
        if (ahead := self._slots.end - self._monotonic()) > LONGEST_LEASE:
            await self._sleep(ahead - LONGEST_LEASE)
        wanted = self._asking
        if self._rate > DENSE_RATE:
            used_up = self._slots.used == self._slots.number
            wanted = max(wanted, self._slots.used * 2 if used_up else self._slots.used)
            wanted = max(wanted, int(self._rate * DENSE_LEASE))
        number = min(wanted, max(int(self._rate * LONGEST_LEASE), 1))
        pauses, successes, late = self._pauses, self._successes, self._late
        returning = self._rate < self._refused_at * KNOWN_GOOD
        raised = successes * (RETURNED_BY_SUCCESS if returning else RAISED_BY_SUCCESS)
        asked_at = self._monotonic()
        try:
            lease = await self._lease(number, late, raised)
        except DatabaseUnavailable:
            logger.warning("the database is not available; nothing is sent")
            await self._sleep(DATABASE_PAUSE)
            return
        leased_at = self._on_this_clock(lease, asked_at, self._monotonic())
        self._rate = lease.rate
        if pauses != self._pauses:
            return
        self._successes -= successes
        self._late = max(self._late - late, 0.0)
        first = max(leased_at + lease.wait, self._slots.end, self._resume_at)
        self._slots = _Slots(first, 1 / (lease.rate * MARGIN), number)

    def _on_this_clock(self, lease: Lease, asked_at: float, answered_at: float) -> float:
        """When it was leased, by `monotonic`."""
        # Slots counted from a late answer would fall on those of other replicas, whose slots are
        # leased and cannot be put off: so a slot stays at its instant of the database's clock, and
        # passes unused if the answer comes after it. An answer tells that this clock is no earlier
        # than asking and no later than it; the quickest one tells best, and is kept as far as later
        # ones allow (either clock may drift or be set). What is left is the same for every lease.
        latest = answered_at - lease.at
        self._offset = max(min(self._offset, latest), asked_at - lease.at, latest - MOST_LEAD)
        leased_at = self._offset + lease.at
        # Where answers stay slow, the next slots begin after theirs: or all would pass.
        lead = answered_at - leased_at
        if self._rate > DENSE_RATE:
            lead = max(lead - self._late_allowed / 2, 0.0)
        self._lead = lead
        return leased_at

    async def _lease(self, slots: int, late: float, raised: float) -> Lease:
        async with transaction(self._engine) as connection:
            if not self._begun:
                await store.begin_pace(connection, self._limits)
            while True:
                lease = await store.lease_slots(
                    connection,
                    self._limits,
                    slots=slots,
                    margin=MARGIN,
                    late=late,
                    raised=raised,
                    lead=self._lead,
                )
                if lease is not None:
                    break
                await store.begin_pace(connection, self._limits)
        self._begun = True
        return lease
