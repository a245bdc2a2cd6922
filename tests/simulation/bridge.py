"""meterbridge in the simulation: its real parts on a real database, driven step by step."""

from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from app.clock import ManualClock
from app.db import create_engine, transaction
from app.dispatch.reasons import HoldReason
from app.dispatch.records import ClaimedRecord
from app.inbox.repository import DeliveryRepository
from app.ledger import windows as facts
from app.ledger.booker import Booker
from app.ledger.carrying import Carrier
from app.ledger.flushing import Flusher
from app.ledger.querying import Querier
from app.ledger.rebooking import Rebooker
from app.ledger.successors import Successors
from app.ledger.windows import TO_BE_ASKED
from app.mapping.cached import CachedMappings
from app.mapping.file import from_yaml, to_mappings
from app.mapping.models import LatePolicy
from app.mapping.repository import MappingRepository
from app.mapping.resolution import Rules
from app.mapping.snapshots import Snapshots
from app.openmeter.api import OpenMeterClient
from tests.simulation.plans import START
from tests.simulation.sending import Sender
from tests.simulation.stripe import SimulatedStripe

LINGER = timedelta(0)  # waiting a second before each POST is a step more and says nothing here
# By default a day: then half of all statements are about snapshots. What somebody changes in
# mid-period is noticed later so, which is harder.
MAX_AGE = timedelta(days=7)
MOST_ROUNDS = 200

# What the loops would find if they looked now, and when they would find something next.
_LOOK = text(
    f"""
    select
        exists(select 1 from deliveries where state = 'received')
            or exists(select 1 from window_releases)
            or exists(select 1 from usage_windows where state = 'pending'
                      and (retry_at is null or retry_at <= :now)
                      and coalesce(reason, '') not in {TO_BE_ASKED}) as book,
        exists(select 1 from usage_records where state = 'late' and due_at <= :now) as carry,
        exists(select 1 from subscription_lanes where due_at <= :now) as send,
        exists(select 1 from usage_windows where state = 'pending' and reason in {TO_BE_ASKED}
               and (retry_at is null or retry_at <= :now)) as ask,
        exists(select 1 from subscription_snapshots where flush_at <= :now) as flush,
        exists(select 1 from usage_windows where state = 'parked' and retry_at <= :now) as wake,
        least((select min(retry_at) from usage_windows where state = 'pending'),
              (select min(retry_at) from usage_windows where state = 'parked'),
              (select min(due_at) from usage_records where state = 'late'),
              (select min(due_at) from subscription_lanes)) as next,
        (select min(flush_at) from subscription_snapshots) as next_flush
    """
)


@dataclass(slots=True)
class Bridge:
    """The parts. `querier` and `flusher` are None without OpenMeter's API."""

    engine: AsyncEngine
    clock: ManualClock
    inbox: DeliveryRepository
    mappings: MappingRepository
    cached: CachedMappings
    snapshots: Snapshots
    booker: Booker
    carrier: Carrier
    sender: Sender
    querier: Querier | None
    flusher: Flusher | None
    rounds: int = 0

    async def apply(self, file: str) -> None:
        """Apply a mapping file."""
        await self.mappings.replace(to_mappings(from_yaml(file)), now=self.clock.now())

    async def settle(self) -> datetime | None:
        """Do all that is to be done now; returns when something is to be done again, by itself."""
        for _ in range(MOST_ROUNDS):
            self.rounds += 1
            async with transaction(self.engine) as connection:
                now = self.clock.now()
                due = (await connection.execute(_LOOK, {"now": now})).one()
                if due.wake:
                    await facts.wake_parked(connection, now=now, limit=10_000)
            asked = flushed = booked = 0
            if self.querier is not None and due.ask:
                asked = await self.querier.ask()
            if self.flusher is not None and due.flush:
                flushed = await self.flusher.flush()
            if due.book or due.wake or asked or flushed:
                done = await self.booker.book()
                booked = done.windows
                await self._read(done.subscriptions)
            if due.carry:
                await self._read((await self.carrier.carry()).subscriptions)
            if due.send or booked:
                await self.sender.send()
            flush = self.flusher is not None and due.flush
            ask = self.querier is not None and due.ask
            if not (due.book or due.wake or due.carry or due.send or ask or flush):
                return _earliest(due.next, due.next_flush if self.flusher is not None else None)
        raise AssertionError(f"it does not come to an end at {self.clock.now()}")

    async def _read(self, subscriptions: Iterable[str]) -> None:
        names = sorted(subscriptions)
        for name in names:
            await self.snapshots.refresh(name)
        if names:
            async with transaction(self.engine) as connection:
                for name in names:
                    await facts.snapshot_arrived(connection, name, retry_at=None)

    async def tidy(self) -> None:
        """What autovacuum does where time goes by: without it rows are written over and over, and
        plans are made for empty tables."""
        async with self.engine.connect() as connection:
            alone = await connection.execution_options(isolation_level="AUTOCOMMIT")
            await alone.execute(text("vacuum (analyze)"))

    async def rows(self, sql: str) -> list[dict[str, Any]]:
        """The rows of a query."""
        async with transaction(self.engine) as connection:
            return [dict(row) for row in (await connection.execute(text(sql))).mappings()]


def _earliest(*times: datetime | None) -> datetime | None:
    return min((at for at in times if at is not None), default=None)


@asynccontextmanager
async def bridge(
    url: URL, stripe: SimulatedStripe, openmeter: OpenMeterClient | None
) -> AsyncIterator[Bridge]:
    """meterbridge on an empty database."""
    clock = ManualClock(datetime.fromtimestamp(START, UTC))
    async with AsyncExitStack() as stack:
        engine = create_engine(url, pool_size=6)
        stack.push_async_callback(engine.dispose)
        lookups = create_engine(url, pool_size=2)
        stack.push_async_callback(lookups.dispose)
        cached = CachedMappings(MappingRepository(lookups), ttl=3600, size=1000)
        snapshots = Snapshots(engine, stripe.read, lookups=lookups, size=1000)
        booker = Booker(
            engine,
            clock,
            cached,
            snapshots,
            linger=LINGER,
            rules=Rules(MAX_AGE, LatePolicy.CARRY_FORWARD, queries=openmeter is not None),
        )
        carrier = Carrier(
            engine,
            clock,
            snapshots,
            Successors(lookups, cached),
            linger=LINGER,
            late_policy=LatePolicy.CARRY_FORWARD,
        )
        rebooker = Rebooker(engine, clock, snapshots)

        async def resolve(record: ClaimedRecord, reason: HoldReason) -> None:
            await rebooker.resolve_again(
                record.id, record.subscription, record.subscription_item, reason=reason.value
            )

        yield Bridge(
            engine,
            clock,
            DeliveryRepository(engine),
            MappingRepository(engine),
            cached,
            snapshots,
            booker,
            carrier,
            Sender(engine, clock, stripe, resolve),
            None if openmeter is None else Querier(engine, clock, openmeter),
            None if openmeter is None else Flusher(engine, clock, openmeter, cached, snapshots),
        )
