"""The program: its real parts on a real database, driven step by step on a clock that is moved."""

import asyncio
import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from app.clock import ManualClock
from app.db import create_engine, transaction
from app.dispatch.decide import stop_of
from app.dispatch.dispatcher import Dispatcher
from app.dispatch.line import stop_line
from app.dispatch.reasons import HoldReason
from app.dispatch.records import ClaimedRecord
from app.inbox.delivery import Delivery
from app.inbox.repository import DeliveryRepository
from app.ledger import windows as facts
from app.ledger.booker import Booker
from app.ledger.carrying import Carrier
from app.ledger.loop import READ_RETRY
from app.ledger.rebooking import Rebooker
from app.ledger.successors import Successors
from app.mapping.cached import CachedMappings
from app.mapping.file import from_yaml, to_mappings
from app.mapping.models import LatePolicy
from app.mapping.repository import MappingRepository
from app.mapping.resolution import Rules
from app.mapping.snapshots import Snapshots, read_from_stripe
from app.stripe_client import StripeClient, StripeError
from tests.model.stripe_side import Stall, StripeSide

KEY: Final = "sk_test_sandbox"
LINGER: Final = timedelta(seconds=1)
LONGEST_DRAIN: Final = 900
"""Seconds of the program's clock: a drain ends long before a period does."""
FORGOTTEN: Final = (
    "deliveries, usage_windows, window_revisions, usage_series, carries, usage_records, "
    "item_periods, attempts, subscription_lanes, subscription_snapshots, window_releases, "
    "subject_mappings, meter_mappings"
)


class SteppingDispatcher(Dispatcher):
    """A dispatcher that ends when nothing is left to claim, and keeps no pace."""

    async def _pause(self, working: set[asyncio.Task[None]]) -> None:
        if working:
            await asyncio.wait(working, return_when=asyncio.FIRST_COMPLETED)
        else:
            self.stop()

    async def _turn(self) -> None:
        await asyncio.sleep(0)


@dataclass
class Mind:
    """What a process has in memory: lost when it is killed."""

    mappings: CachedMappings
    snapshots: Snapshots
    booker: Booker
    carrier: Carrier
    rebooker: Rebooker


class Program:
    """Everything on one event loop. Open it with `open`, and close it."""

    def __init__(self, url: URL, stripe: StripeSide) -> None:
        self.clock = ManualClock(datetime.fromtimestamp(0, UTC))
        self.stripe = stripe
        self.engine: AsyncEngine = create_engine(url, pool_size=8)
        self._lookups: AsyncEngine = create_engine(url, pool_size=3)
        self._client = StripeClient(api_key=KEY, transport=stripe.transport())
        self._inbox = DeliveryRepository(self.engine)
        self._max_age = timedelta(hours=1)
        self._workers = 0
        self._mind: Mind | None = None

    async def aclose(self) -> None:
        """End all connections."""
        await self._client.aclose()
        await self.engine.dispose()
        await self._lookups.dispose()

    async def begin(self, now: int, *, max_age: int) -> None:
        """Start over, with an empty database."""
        await self.run(f"truncate {FORGOTTEN} restart identity")
        await self.run(
            "update stripe_line set stopped = false, reason = null, probe_at = null, "
            "since = null, detail = null, failures = 0"
        )
        self._max_age = timedelta(seconds=max_age)
        self.clock.set(datetime.fromtimestamp(now, UTC))
        self.forget()

    @property
    def now(self) -> int:
        """Unix seconds."""
        return int(self.clock.now().timestamp())

    def move(self, now: int) -> None:
        """Move the clock of both sides."""
        assert now >= self.now
        self.clock.set(datetime.fromtimestamp(now, UTC))
        self.stripe.move(now)

    def forget(self) -> None:
        """As after a kill: what was in memory is gone."""
        mappings = CachedMappings(MappingRepository(self._lookups), ttl=300, size=1000)
        snapshots = Snapshots(
            self.engine,
            partial(read_from_stripe, self._client, clock=self.clock),
            lookups=self._lookups,
            size=1000,
        )
        self._mind = Mind(
            mappings,
            snapshots,
            Booker(
                self.engine,
                self.clock,
                mappings,
                snapshots,
                linger=LINGER,
                rules=Rules(self._max_age),
            ),
            Carrier(
                self.engine,
                self.clock,
                snapshots,
                Successors(self._lookups, mappings),
                linger=LINGER,
                late_policy=LatePolicy.CARRY_FORWARD,
            ),
            Rebooker(self.engine, self.clock, snapshots),
        )

    @property
    def mind(self) -> Mind:
        """What is in memory now."""
        assert self._mind is not None
        return self._mind

    async def apply(self, file: str) -> None:
        """Apply a mapping file."""
        repository = MappingRepository(self.engine)
        await repository.replace(to_mappings(from_yaml(file)), now=self.clock.now())

    async def deliver(self, svix_id: str, message_at: int, message: dict[str, Any]) -> None:
        """Take a message in."""
        delivery = Delivery.of(
            svix_id,
            json.dumps(message).encode(),
            message_at=datetime.fromtimestamp(message_at, UTC),
            received_at=self.clock.now(),
        )
        await self._inbox.store([delivery])

    async def read(self, subscriptions: Iterable[str]) -> None:
        """Read subscriptions, as the booking loop does: what fails is read later."""
        for name in sorted(subscriptions):
            retry_at = None
            try:
                await self.mind.snapshots.refresh(name)
            except StripeError as error:
                retry_at = self.clock.now() + READ_RETRY
                await self._refused(error)
            async with transaction(self.engine) as connection:
                await facts.snapshot_arrived(connection, name, retry_at=retry_at)

    async def _refused(self, error: StripeError) -> None:
        reason = stop_of(error)
        if reason is not None:
            async with transaction(self.engine) as connection:
                await stop_line(connection, reason, str(error), now=self.clock.now())

    async def book(self) -> bool:
        """Book until there is nothing to do just now. Returns whether there was."""
        for number in range(100):
            done = await self.mind.booker.book()
            if done.idle:
                return number > 0
            await self.read(done.subscriptions)
        raise AssertionError("booking does not come to an end")

    async def carry(self) -> bool:
        """Carry what is late. Returns whether there was something to do."""
        carried = await self.mind.carrier.carry()
        await self.read(carried.subscriptions)
        return bool(carried.records or carried.subscriptions)

    async def send(self, workers: int = 1, in_flight: int = 1) -> None:
        """Send what is due now, by so many workers at once."""
        await asyncio.gather(*(self._dispatcher(in_flight).run(grace=10) for _ in range(workers)))

    def _dispatcher(self, in_flight: int) -> Dispatcher:
        self._workers += 1
        return SteppingDispatcher(
            self.engine,
            self.clock,
            self._client,
            rate=1000,
            in_flight=in_flight,
            resolver=self._resolve,
            worker=f"worker-{self._workers}",
            jitter=lambda: 0.5,
        )

    async def _resolve(self, record: ClaimedRecord, reason: HoldReason) -> None:
        try:
            await self.mind.rebooker.resolve_again(
                record.id, record.subscription, record.subscription_item, reason=reason.value
            )
        except StripeError as error:
            await self._refused(error)

    async def drain(self, *, workers: int = 1, in_flight: int = 1) -> None:
        """Book, carry and send until nothing is left to do, moving the clock where it must."""
        began = self.now
        for _ in range(400):
            busy = await self.book()
            busy |= await self.carry()
            await self.send(workers, in_flight)
            due = await self._next()
            if due is None and not busy:
                return
            if due is not None:
                self.move(max(due, self.now + (not busy)))
                if max(due, self.now) - began > LONGEST_DRAIN:
                    break
                self.move(max(due, self.now + (not busy)))
        raise AssertionError(f"it is never drained: {await self._undone()}")

    async def _undone(self) -> list[dict[str, Any]]:
        """What is still to be done, for whoever reads of a failure."""
        return [
            *await self.rows("select * from usage_records where state in ('due', 'late')"),
            *await self.rows(
                "select id, state, reason, detail, retry_at from usage_windows "
                "where state = 'pending' or retry_at is not null"
            ),
            *await self.rows("select * from stripe_line where stopped"),
        ]

    async def _next(self) -> int | None:
        """When something is to be done again; None where nothing is."""
        [row] = await self.rows(
            """
            select least(
                (select min(due_at) from usage_records where state in ('due', 'late')),
                (select min(case when reason = 'moving' then :now else coalesce(retry_at, :now) end)
                 from usage_windows where state = 'pending'),
                (select min(retry_at) from usage_windows
                 where state = 'parked' and reason = 'period_not_open'),
                (select min(received_at) from deliveries where state = 'received')) as work,
                (select probe_at from stripe_line where stopped) as probe
            """,
            now=self.clock.now(),
        )
        if row["work"] is None:
            return None
        at: datetime = row["work"] if row["probe"] is None else max(row["work"], row["probe"])
        return int(at.timestamp()) + (at.microsecond > 0)

    async def kill(self, number: int, *, executed: bool) -> bool:
        """Send until the `number`-th POST, and die there. Returns whether that came."""
        stall = self.stripe.stall = Stall(number, executed, asyncio.Event())
        sending = asyncio.create_task(self._dispatcher(1).run(grace=0))
        silent = asyncio.create_task(stall.reached.wait())
        await asyncio.wait({sending, silent}, return_when=asyncio.FIRST_COMPLETED)
        reached = stall.reached.is_set()
        for task in (silent, sending):
            if reached or task is silent:
                task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        self.stripe.heal()
        await self.run(
            "update subscription_lanes set leased_until = clock_timestamp() - interval '1 s' "
            "where leased_until is not null"
        )
        self.forget()
        return reached

    async def rows(self, sql: str, **parameters: object) -> list[dict[str, Any]]:
        """The rows of a query."""
        async with transaction(self.engine) as connection:
            found = await connection.execute(text(sql), parameters)
            return [dict(row) for row in found.mappings()]

    async def run(self, sql: str, **parameters: object) -> None:
        """Run a statement and commit it."""
        async with transaction(self.engine) as connection:
            await connection.execute(text(sql), parameters)
