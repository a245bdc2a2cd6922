"""A world whose OpenMeter can be asked: usage there is told by windows, parts and flushes."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from app.ledger.flushing import Flusher
from app.ledger.querying import Querier
from app.mapping.models import LatePolicy
from app.openmeter.api import OpenMeterClient
from tests.ledger.months import Months
from tests.ledger.world import World
from tests.mapping.stripe_side import HOUR, item, snapshot
from tests.openmeter_side.querying import Row
from tests.openmeter_side.serving import client_of
from tests.openmeter_side.side import OpenMeterSide

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
DAY_LONG = timedelta(days=1)
# Two billing periods with a boundary at an odd second of an odd day.
FIRST = datetime(2026, 2, 9, 13, 7, 23, tzinfo=UTC)
BOUNDARY = datetime(2026, 3, 9, 13, 7, 23, tzinfo=UTC)
LAST = datetime(2026, 4, 9, 13, 7, 23, tzinfo=UTC)
MIDNIGHT = datetime(2026, 3, 9, tzinfo=UTC)


def entry(row: Row) -> dict[str, Any]:
    """A row of OpenMeter's as an entry of `usage`."""
    return row.as_json() | {"value": str(row.exact)}


@dataclass
class Asked:
    """Months of a bridge that can ask OpenMeter. Told is what deliveries said, by item."""

    world: World
    months: Months
    side: OpenMeterSide
    client: OpenMeterClient
    querier: Querier
    flusher: Flusher
    sent: list[Row] = field(default_factory=list)

    def use(
        self,
        at: datetime,
        value: object = 1,
        *,
        subject: str = "customer-1",
        meter: str = "tokens",
        **members: Any,
    ) -> None:
        """Something is used."""
        self.side.event(meter, subject, at, Decimal(str(value)), **members)

    async def begin(self, start: datetime, end: datetime, **members: Any) -> None:
        """Stripe's period of sub_1 is this one, and it is read."""
        await self.months.show(period_start=start, period_end=end, **members)

    async def report(
        self,
        start: datetime,
        end: datetime,
        size: str = "DAY",
        *,
        meter: str = "tokens",
        group_by: Sequence[str] = (),
    ) -> None:
        """OpenMeter sends what it holds of [start, end) by now, and it is booked."""
        for message in self.side.webhooks(meter, size, start, end, group_by):
            await self.world.deliver(
                *(entry(row) for row in message.rows),
                subject=message.subject,
                meter=meter,
                aggregation=self.side.meters[meter].aggregation,
            )
        await self.settle()

    async def settle(self) -> None:
        """Book, ask, carry and send until nothing is left to do."""
        for _ in range(20):
            await self.months.settle()
            if not await self.querier.ask():
                return
        raise AssertionError("it does not come to an end")

    async def flush(self) -> int:
        """Flush what is due now, and book that."""
        count = await self.flusher.flush()
        await self.settle()
        return count

    async def flush_until(self, moment: datetime) -> int:
        """Let time pass up to a moment, flushing whenever that is due. Returns how often."""
        flushes = 0
        while True:
            [found] = await self.world.rows("select flush_at from subscription_snapshots")
            due = found["flush_at"]
            if due is None or due > moment:
                self.world.clock.set(max(moment, self.world.clock.now()))
                return flushes
            self.world.clock.set(max(due, self.world.clock.now()))
            await self.flush()
            flushes += 1
            assert flushes < 60, "flushing does not come to an end"

    async def windows(self, source: str) -> list[dict[str, Any]]:
        """The windows from such a source, in time."""
        return await self.world.rows(
            "select w.*, r.timestamp as second, r.state as record_state, p.period_start "
            "from usage_windows w left join usage_records r on r.id = w.usage_record_id "
            "left join item_periods p on p.id = r.item_period_id "
            "where w.source = :source order by w.window_start, w.id",
            source=source,
        )

    async def billed(self) -> dict[datetime, int]:
        """What each period of si_1 comes to at Stripe, carries in the period that bills them."""
        return {start: line.billed for start, line in (await self.months.months()).items()}

    async def wanted(self) -> int:
        """All that must stand at Stripe; units that are owed are taken off."""
        [found] = await self.world.rows(
            "select coalesce(sum(wanted_quantity), 0) as wanted from usage_records"
        )
        return int(found["wanted"])

    async def provisional(self) -> list[dict[str, Any]]:
        """Provisional windows that count."""
        return [w for w in await self.windows("flush") if w["state"] != "covered"]


@asynccontextmanager
async def asked_world(
    world: World,
    *,
    policy: LatePolicy = LatePolicy.CARRY_FORWARD,
    grace: timedelta = timedelta(0),
    queries: bool = True,
) -> AsyncIterator[Asked]:
    """The first of the two periods is open, on the day of its end."""
    world.rules = replace(world.rules, late_policy=policy, queries=queries)
    world.clock.set(MIDNIGHT + HOUR)
    world.stripe.held["sub_1"] = snapshot(item(period_start=FIRST, period_end=BOUNDARY))
    side = OpenMeterSide(now=world.clock.now)
    side.meter("tokens")
    async with world.replica() as replica, client_of(side) as client:
        months = Months(world, replica, grace)
        await replica.read(["sub_1"])
        yield Asked(
            world,
            months,
            side,
            client,
            Querier(replica.engine, world.clock, client),
            Flusher(replica.engine, world.clock, client, replica.mappings, replica.snapshots),
        )
