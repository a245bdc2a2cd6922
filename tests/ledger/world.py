"""A ledger on a real database, and a Stripe that only shows subscriptions and counts the looks."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

from sqlalchemy import text
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from app.clock import ManualClock
from app.db import create_engine, transaction
from app.inbox.delivery import Delivery
from app.inbox.repository import DeliveryRepository
from app.ledger import windows as facts
from app.ledger.booker import Booker
from app.ledger.carrying import Carrier
from app.ledger.rounds import Round
from app.ledger.successors import Successors
from app.mapping.cached import CachedMappings
from app.mapping.file import from_yaml, to_mappings
from app.mapping.models import LatePolicy, SubscriptionSnapshot
from app.mapping.repository import MappingRepository
from app.mapping.resolution import Rules
from app.mapping.snapshots import Snapshots
from tests.mapping.stripe_side import HOUR, NOW, item, snapshot

DAY = datetime(2026, 3, 9, tzinfo=UTC)
LINGER = timedelta(seconds=1)
MAX_AGE = timedelta(hours=1)
ONE_CUSTOMER = """
meters: [{meter: tokens, price: price_1}]
subjects: [{subject: customer-1, subscription: sub_1}]
"""


def at(hour: int) -> int:
    """The second of the record of `row(hour)`."""
    return int((DAY + (hour + 1) * HOUR).timestamp()) - 1


def row(hour: int, value: object, **members: Any) -> dict[str, Any]:
    """An entry of `usage`: the hour that begins so many hours into DAY. Numbers as text."""
    start = DAY + hour * HOUR
    return {
        "value": str(value),
        "windowStart": start.isoformat(),
        "windowEnd": (start + HOUR).isoformat(),
        **members,
    }


class ShownStripe:
    """Answers reads of subscriptions from `held`; unknown ones are not found."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self.held: dict[str, SubscriptionSnapshot] = {}
        self.reads: Counter[str] = Counter()
        self.failure: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    def show(self, *names: str, **members: Any) -> None:
        """Subscriptions `sub_N` with one item `si_N` each."""
        for name in names:
            self.held[name] = snapshot(item(name.replace("sub", "si")), name=name, **members)

    async def read(self, name: str) -> SubscriptionSnapshot:
        """What stands now."""
        self.reads[name] += 1
        fetched_at = self._clock.now()
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        if name not in self.held:
            return SubscriptionSnapshot(name, fetched_at, found=False)
        return replace(self.held[name], fetched_at=fetched_at)


@dataclass(frozen=True)
class Replica:
    """One process's share: connections, caches and booker of its own."""

    engine: AsyncEngine
    mappings: CachedMappings
    snapshots: Snapshots
    booker: Booker
    carrier: Carrier

    async def read(self, subscriptions: Iterable[str]) -> None:
        """Read subscriptions and say that they are there, as the booking loop does."""
        for name in sorted(subscriptions):
            await self.snapshots.refresh(name)
            async with transaction(self.engine) as connection:
                await facts.snapshot_arrived(connection, name, retry_at=None)

    async def book(self) -> list[Round]:
        """Book until there is nothing left to do; reads what booking asks for."""
        rounds = []
        while not (done := await self.booker.book()).idle:
            rounds.append(done)
            await self.read(done.subscriptions)
            assert len(rounds) < 500, "booking does not come to an end"
        return rounds


class World:
    """The database, the clock and Stripe; replicas are made by `replica`."""

    def __init__(self, url: URL, engine: AsyncEngine) -> None:
        self.rules = Rules(MAX_AGE, late_policy=LatePolicy.HOLD)
        self.url = url
        self.engine = engine
        self.clock = ManualClock(NOW)
        self.stripe = ShownStripe(self.clock)
        self.stripe.show("sub_1")
        self.mappings = MappingRepository(engine)
        self._inbox = DeliveryRepository(engine)
        self._ids = count(1)

    @asynccontextmanager
    async def replica(self) -> AsyncIterator[Replica]:
        """A process's share, with engines of its own."""
        async with AsyncExitStack() as stack:
            engine = create_engine(self.url, pool_size=3)
            stack.push_async_callback(engine.dispose)
            lookups = create_engine(self.url, pool_size=2)
            stack.push_async_callback(lookups.dispose)
            cached = CachedMappings(MappingRepository(lookups), ttl=300, size=1000)
            snapshots = Snapshots(engine, self.stripe.read, lookups=lookups, size=1000)
            booker = Booker(engine, self.clock, cached, snapshots, linger=LINGER, rules=self.rules)
            carrier = Carrier(
                engine,
                self.clock,
                snapshots,
                Successors(lookups, cached),
                linger=LINGER,
                late_policy=self.rules.late_policy,
            )
            yield Replica(engine, cached, snapshots, booker, carrier)

    async def apply(self, file: str) -> None:
        """Apply a mapping file."""
        await self.mappings.replace(to_mappings(from_yaml(file)), now=self.clock.now())

    async def deliver(
        self,
        *rows: dict[str, Any],
        subject: str = "customer-1",
        meter: str = "tokens",
        aggregation: str = "SUM",
        sent: float | None = None,
        svix_id: str | None = None,
        body: bytes | None = None,
    ) -> str:
        """Keep a delivery, message time `sent` seconds after NOW (default: in order). Its id."""
        number = next(self._ids)
        message = {
            "type": "report.meter",
            "usage": list(rows),
            "query": {"subject": subject},
            "meter": {"slug": meter, "aggregation": aggregation},
        }
        message_at = NOW + timedelta(seconds=number if sent is None else sent)
        delivery = Delivery.of(
            svix_id or f"msg_{number:06}",
            json.dumps(message).encode() if body is None else body,
            message_at=message_at,
            received_at=NOW,
        )
        await self._inbox.store([delivery])
        return delivery.svix_id

    async def rows(self, sql: str, **parameters: object) -> list[dict[str, Any]]:
        """The rows of a query."""
        async with transaction(self.engine) as connection:
            return [dict(r) for r in (await connection.execute(text(sql), parameters)).mappings()]

    async def run(self, sql: str, **parameters: object) -> None:
        """Run a statement and commit it."""
        async with transaction(self.engine) as connection:
            await connection.execute(text(sql), parameters)

    async def wanted(self, item_name: str = "si_1") -> dict[int, int]:
        """The wanted quantity of each record of an item."""
        found = await self.rows(
            "select timestamp, wanted_quantity from usage_records where subscription_item = :item",
            item=item_name,
        )
        return {row["timestamp"]: int(row["wanted_quantity"]) for row in found}

    async def parked(self) -> dict[str, int]:
        """How many windows are parked under each reason."""
        found = await self.rows(
            "select reason, count(*) as n from usage_windows where state = 'parked' group by 1"
        )
        return {row["reason"]: row["n"] for row in found}

    async def states(self) -> dict[str, int]:
        """How many windows are in each state."""
        found = await self.rows("select state, count(*) as n from usage_windows group by 1")
        return {row["state"]: row["n"] for row in found}

    async def deliveries(self) -> dict[str, int]:
        """How many deliveries are in each state."""
        found = await self.rows("select state, count(*) as n from deliveries group by 1")
        return {row["state"]: row["n"] for row in found}

    async def window(self) -> dict[str, Any]:
        """The only window there is."""
        [found] = await self.rows("select * from usage_windows")
        return found

    async def total(self, item_name: str = "si_1") -> tuple[int, int]:
        """The rounded total of an item's only period, and the sum of its wanted quantities."""
        [found] = await self.rows(
            """
            select p.rounded_total, coalesce(sum(r.wanted_quantity), 0) as wanted
            from item_periods p left join usage_records r on r.item_period_id = p.id
            where p.subscription_item = :item group by p.id
            """,
            item=item_name,
        )
        return int(found["rounded_total"]), int(found["wanted"])

    async def start_over(self) -> None:
        """Forget all windows and records; mappings and snapshots stay."""
        await self.run(
            "truncate deliveries, usage_windows, window_revisions, usage_series, carries, "
            "usage_records, item_periods, attempts, "
            "subscription_lanes"
        )
