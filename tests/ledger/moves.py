"""Usage that moves: two subscriptions, a Stripe that takes what is due, one record at a time."""

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, NamedTuple

from app.ledger.quantity import round_total
from app.mapping.file import from_yaml, to_mappings
from app.mapping.models import Rounding
from app.mapping.repository import AppliedMappings
from tests.ledger.world import LINGER, Replica, World, row
from tests.mapping.stripe_side import item, snapshot

UPGRADED = """
subjects:
  - {subject: customer-1, subscription: sub_1, valid_to: "2026-03-09T02:00:00Z"}
  - {subject: customer-1, subscription: sub_2, valid_from: "2026-03-09T02:00:00Z"}
"""
MOVED = "subjects: [{subject: customer-1, subscription: sub_2}]"
MOVED_BACK = "subjects: [{subject: customer-1, subscription: sub_1}]"
OTHER_PRICE = "meters: [{meter: tokens, price: price_2}]"
SPLIT = """
meters:
  - {meter: tokens, price: price_2, groups: {model: gpt-4}}
  - {meter: tokens, price: price_1}
"""


class Call(NamedTuple):
    """A usage record that Stripe has taken."""

    subscription_item: str
    timestamp: int
    quantity: int


@dataclass
class Moving:
    """A world with `sub_1` (si_1 at price_1, si_1b at price_2) and `sub_2` (si_2, si_2b)."""

    world: World
    calls: list[Call] = field(default_factory=list)
    most: Fraction | None = None  # Stripe must never hold more than this

    def __post_init__(self) -> None:
        self.show()

    def show(self, **members: Any) -> None:
        """What Stripe shows of both."""
        for number in (1, 2):
            items = (
                item(f"si_{number}", **members),
                item(f"si_{number}b", price_id="price_2", **members),
            )
            self.world.stripe.held[f"sub_{number}"] = snapshot(*items, name=f"sub_{number}")

    async def apply(self, file: str, **how: bool) -> AppliedMappings:
        """Apply a mapping file."""
        wanted = to_mappings(from_yaml(file))
        return await self.world.mappings.replace(wanted, now=self.world.clock.now(), **how)

    async def preview(self, file: str) -> AppliedMappings:
        """What applying it would find."""
        wanted = to_mappings(from_yaml(file))
        return await self.world.mappings.preview(wanted, now=self.world.clock.now())

    async def tell(self, replica: Replica, *values: object) -> None:
        """Report hours of DAY, and have them billed."""
        await self.world.deliver(*(row(hour, value) for hour, value in enumerate(values)))
        await self.settle(replica)

    async def send(self, *, only: str | None = None) -> int:
        """Stripe takes what is due, oldest first. Returns how many records."""
        self.world.clock.advance(LINGER)
        due = await self.world.rows(
            "select id, subscription_item, timestamp, wanted_quantity from usage_records "
            "where state = 'due' and due_at <= :now "
            "and (cast(:only as text) is null or subscription_item = :only) order by due_at, id",
            now=self.world.clock.now(),
            only=only,
        )
        for record in due:
            await self.world.run(
                "update usage_records set reported_quantity = wanted_quantity, state = 'reported', "
                "due_at = null, unsent_since = null where id = :id",
                id=record["id"],
            )
            self.calls.append(
                Call(record["subscription_item"], record["timestamp"], record["wanted_quantity"])
            )
            if self.most is not None:
                assert sum((await self.billed()).values()) <= self.most
        return len(due)

    async def settle(self, *replicas: Replica) -> None:
        """Book, carry and send until nothing is left to do."""
        for _ in range(60):
            booked = [round_ for replica in replicas for round_ in await replica.book()]
            carried = 0
            for replica in replicas:
                done = await replica.carrier.carry()
                await replica.read(done.subscriptions)
                carried += done.records
            if not (booked or carried or await self.send()):
                return
        raise AssertionError("it does not come to an end")

    async def billed(self) -> dict[str, int]:
        """What Stripe holds of each item, those with nothing left out."""
        found = await self.world.rows(
            "select subscription_item, sum(reported_quantity) as total from usage_records "
            "group by 1 having sum(reported_quantity) <> 0"
        )
        return {row["subscription_item"]: int(row["total"]) for row in found}

    async def moving(self) -> list[dict[str, Any]]:
        """The windows that are on their way."""
        return await self.world.rows(
            "select id, state, reason, detail, usage_record_id, moving_from from usage_windows "
            "where moving_from is not null order by id"
        )

    async def check(self, values: list[Fraction], on: dict[str, list[int]]) -> None:
        """Stripe holds, of each item, the rounded sum of the windows that belong there."""
        assert await self.billed() == {
            name: total
            for name, windows in on.items()
            if (
                total := round_total(
                    sum((values[n] for n in windows), Fraction(0)), Rounding.HALF_UP
                )
            )
        }
        assert await self.moving() == []
        assert set(await self.world.states()) <= {"booked"}
