"""Billing periods that end while a test runs, and a Stripe that takes or refuses by them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from app.ledger.rebooking import Rebooker
from app.ledger.status import StatusRepository
from app.mapping.models import LatePolicy
from tests.ledger.adding_up import NOT_ADDING_UP
from tests.ledger.world import Replica, World
from tests.mapping.stripe_side import HOUR, item, snapshot

MARCH, APRIL, MAY, JUNE, JULY = (datetime(2026, month, 1, tzinfo=UTC) for month in range(3, 8))
NEXT = {MARCH: APRIL, APRIL: MAY, MAY: JUNE, JUNE: JULY}
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def used(month: datetime, hour: int, value: object, **members: Any) -> dict[str, Any]:
    """An entry of `usage`: an hour of a month, counted from its beginning."""
    start = month + hour * HOUR
    return {
        "value": str(value),
        "windowStart": start.isoformat(),
        "windowEnd": (start + HOUR).isoformat(),
        **members,
    }


@dataclass(frozen=True)
class Line:
    """What an item's period comes to: billed, and held with nothing sent (below zero: owed)."""

    billed: int
    held: int = 0


@dataclass
class Months:
    """A world in which sub_1 is billed by the month; `grace`: Stripe takes usage a while longer."""

    world: World
    replica: Replica
    grace: timedelta = timedelta(0)

    async def begin(self, month: datetime, *, after: timedelta = 2 * HOUR, **members: Any) -> None:
        """It is so long after a month's beginning, and Stripe's period is that month."""
        self.world.clock.set(month + after)
        await self.show(period_start=month, period_end=NEXT[month], **members)

    async def close(self, month: datetime) -> None:
        """It becomes known that a month is closed: a window comes late for it, with nothing."""
        await self.tell(used(month, 600, 0))

    async def show(self, name: str = "si_1", **members: Any) -> None:
        """Stripe shows the item so, and it is read."""
        self.shown(name, **members)
        await self.replica.read(["sub_1"])

    def shown(self, name: str = "si_1", **members: Any) -> None:
        """Stripe shows the item so; nobody has read it yet."""
        before = self.world.stripe.held["sub_1"].items
        current = {"period_start": before[0].period_start, "period_end": before[0].period_end}
        self.world.stripe.held["sub_1"] = snapshot(item(name, **(current | members)))

    async def refuse_all(self) -> None:
        """Stripe has closed every period so far, and what is due there is late."""
        await self.world.run(
            "update item_periods set closed_at = now(), "
            "closed_until = extract(epoch from period_end)::bigint"
        )
        await self.world.run("update usage_records set state = 'late' where state = 'due'")

    async def tell(self, *rows: dict[str, Any], **members: Any) -> None:
        """A delivery, and all that follows from it."""
        await self.world.deliver(*rows, **members)
        await self.settle()

    async def settle(self) -> None:
        """Book, carry and send until nothing is left to do; the ledger adds up after each step."""
        for _ in range(50):
            rounds = await self.replica.book()
            await self.check()
            carried = await self.replica.carrier.carry()
            await self.check()
            await self.replica.read(carried.subscriptions)
            sent = await self.send()
            await self.check()
            if not (rounds or carried.records or carried.subscriptions or sent):
                return
            if carried.subscriptions:
                self.world.clock.advance(timedelta(seconds=11))
        raise AssertionError("it does not come to an end")

    async def send(self) -> int:
        """Stripe takes what is due, or refuses it for its period. Returns how many it was asked."""
        due = await self.world.rows(
            "select id, subscription_item, timestamp from usage_records "
            "where state = 'due' and sent_key is null order by id"
        )
        for record in due:
            at = datetime.fromtimestamp(record["timestamp"], UTC)
            if self._takes(record["subscription_item"], at):
                await self.world.run(
                    "update usage_records set reported_quantity = wanted_quantity, "
                    "state = 'reported', due_at = null, unsent_since = null, doubtful = false "
                    "where id = :id and state = 'due'",
                    id=record["id"],
                )
            else:
                await self.refuse(record["id"], record["subscription_item"], "period_closed")
        return len(due)

    async def refuse(self, record_id: int, item_name: str, reason: str) -> None:
        """Stripe has refused a record, and the dispatcher has it resolved."""
        rebooker = Rebooker(self.world.engine, self.world.clock, self.replica.snapshots)
        await rebooker.resolve_again(record_id, "sub_1", item_name, reason=reason)

    def _takes(self, item_name: str, at: datetime) -> bool:
        for held in self.world.stripe.held["sub_1"].items:
            if held.id == item_name:
                grace = self.world.clock.now() < held.period_start + self.grace
                return at > held.period_start or grace
        return False

    async def release(self, reason: str) -> None:
        """An operator releases the windows and the records of a reason."""
        status = StatusRepository(self.world.engine)
        await status.release_windows(reason=reason, ids=[])
        await status.release_records(reason=reason, ids=[], now=self.world.clock.now())
        await self.settle()

    async def lines(self) -> dict[tuple[str, datetime], Line]:
        """What each item's period comes to, those with nothing left out."""
        found = await self.world.rows(
            """
            select p.subscription_item, p.period_start, sum(r.reported_quantity) as billed,
                   sum(case when r.state = 'held' then r.wanted_quantity - r.reported_quantity
                       else 0 end) as held
            from item_periods p join usage_records r on r.item_period_id = p.id
            group by 1, 2 having sum(r.reported_quantity) <> 0 or bool_or(r.state = 'held')
            """
        )
        return {
            (row["subscription_item"], row["period_start"]): Line(
                int(row["billed"]), int(row["held"])
            )
            for row in found
        }

    async def months(self) -> dict[datetime, Line]:
        """The lines of si_1."""
        return {
            start: line for (name, start), line in (await self.lines()).items() if name == "si_1"
        }

    async def carries(self) -> list[int]:
        """All that was carried, in order."""
        rows = await self.world.rows("select quantity from carries order by id")
        return [int(row["quantity"]) for row in rows]

    async def held(self) -> dict[str, str | None]:
        """Reason and detail of what is held."""
        rows = await self.world.rows(
            "select reason, detail from usage_records where state = 'held'"
        )
        return {row["reason"]: row["detail"] for row in rows}

    async def check(self) -> None:
        """The ledger adds up: totals, records and carries, whatever is still to be done."""
        assert await self.world.rows(NOT_ADDING_UP) == []


@asynccontextmanager
async def months_of(
    world: World, *, policy: LatePolicy = LatePolicy.CARRY_FORWARD, grace: timedelta = timedelta(0)
) -> AsyncIterator[Months]:
    """A replica of an instance with such a late policy; it is the 10th of March."""
    world.rules = replace(world.rules, late_policy=policy)
    async with world.replica() as replica:
        yield Months(world, replica, grace)
