"""The world of a run: customers, their subscriptions and mappings, and how mappings will change.

Pure, and the same for the same seed and size. Monthly subscriptions are in mid-period all the
while, so all units must stand in it, fractions rounded on the total. Daily ones end again and
again as the clock moves, with whole numbers and corrections upward only, so that nothing is owed
back from an invoice that is closed: what is late is carried forward, every unit of it.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from tests.chaos.account import Item
from tests.chaos.changes import Change, DatedBack, FromThenOn, MappedLate, PriceOfAGroup
from tests.chaos.mappings import Groups, Mappings, MeterEntry, Span

HOUR = 3_600
DAY = 24 * HOUR
MONTHLY_BEGAN = 12 * DAY + 1_234
DAILY_BEGAN = 3 * DAY + 5_678  # so that their periods end at odd seconds
LIVE_WINDOW = 600
LIVE_BACKLOG = 30 * HOUR
STEP = 6 * HOUR
"""How far the clock moves at a time: Stripe forgets a key after 24 hours."""

LIVE = "live_seconds"
SPLIT = "images"
SPLIT_BY = "tier"
TIERS = ("a", "b", "c", "other")


@dataclass(frozen=True, slots=True)
class MonthlyMeter:
    """A meter of the monthly subscriptions, told by the hour."""

    slug: str
    aggregation: str
    record_per: str
    groups: tuple[Groups, ...] = ((),)
    scale: Fraction = Fraction(1)
    fractions: bool = False
    aggregate: str = "sum"


MONTHLY_METERS = (
    MonthlyMeter(
        "prompt_tokens",
        "SUM",
        "window",
        groups=((("model", "small"),), (("model", "large"),)),
    ),
    MonthlyMeter("gpu_seconds", "SUM", "day", scale=Fraction(1, 1000), fractions=True),
    MonthlyMeter("api_requests", "COUNT", "period"),
    MonthlyMeter("storage_peak", "MAX", "day", aggregate="max"),
    MonthlyMeter(SPLIT, "SUM", "day", groups=tuple(((SPLIT_BY, tier),) for tier in TIERS)),
)
WINDOWS_OF_A_DAY = 24 * sum(len(meter.groups) for meter in MONTHLY_METERS)


@dataclass(frozen=True, slots=True)
class Customer:
    """A subscription at Stripe with its items, since `began` (Unix seconds)."""

    subscription: str
    began: int
    items: tuple[Item, ...]

    def draft(self) -> dict[str, Any]:
        """As the sandbox's control API takes it."""
        return {
            "id": self.subscription,
            "customer": "cus_1",
            "start_date": self.began,
            "items": [{"id": item.id, "price": item.price} for item in self.items],
        }


@dataclass(frozen=True, slots=True)
class World:
    """Everything that is given at the start. `days`: of hourly usage for each monthly subject."""

    now: int
    customers: tuple[Customer, ...]
    mappings: Mappings
    changes: tuple[Change, ...]
    subjects: tuple[str, ...]
    strangers: tuple[str, ...]
    live: tuple[str, ...]
    days: int

    @property
    def items(self) -> list[Item]:
        """All items at Stripe."""
        return [item for customer in self.customers for item in customer.items]

    def prices(self) -> list[dict[str, Any]]:
        """All prices, as the sandbox's control API takes them."""
        found = {item.price: item for item in self.items}
        return [
            {
                "id": price,
                "aggregate_usage": item.aggregate,
                "interval": "day" if price == f"price_{LIVE}" else "month",
            }
            for price, item in found.items()
        ]


def draw_world(*, seed: int, windows: int, steps: int, now: int) -> World:
    """A world with a little more than so many windows, if the clock moves `steps` times."""
    dice = random.Random(seed)  # noqa: S311 - a run that repeats itself; nothing secret is drawn
    monthly, live = windows * 4 // 5, windows * 3 // 10
    count = max(6, -(-monthly // (10 * WINDOWS_OF_A_DAY)))
    days = min(10, max(1, -(-monthly // (count * WINDOWS_OF_A_DAY))))
    count_live = max(3, -(-live // ((LIVE_BACKLOG + steps * STEP) // LIVE_WINDOW)))
    subjects = tuple(f"customer-{n}" for n in range(1, count + 1))
    live_subjects = tuple(f"live-{n}" for n in range(1, count_live + 1))
    payers = {subject: f"sub_{n // 2 + 1}" for n, subject in enumerate(subjects)}
    customers = [_monthly(name, now - MONTHLY_BEGAN) for name in dict.fromkeys(payers.values())]
    customers += [_daily(f"sub_{name}", now - DAILY_BEGAN) for name in live_subjects]
    unusual = dice.sample(subjects, max(3, count // 3))
    late, back = unusual[: max(2, count // 4)], unusual[max(2, count // 4) :]
    leaving = dice.sample(live_subjects, max(1, count_live // 12))
    customers += [_daily(f"sub_spare_{name}", now - DAILY_BEGAN) for name in leaving]
    others = list(dict.fromkeys(payers.values()))
    changes: list[Change] = [
        *(MappedLate(subject, payers[subject]) for subject in late),
        *(DatedBack(s, dice.choice([o for o in others if o != payers[s]])) for s in back),
        *(FromThenOn(subject, f"sub_spare_{subject}") for subject in leaving),
        *(PriceOfAGroup(SPLIT, (SPLIT_BY, tier), f"price_{SPLIT}_{tier}") for tier in TIERS[:-1]),
    ]
    # One of each kind before the second of any: a short run has them all.
    dice.shuffle(changes)
    kinds = [type(change) for change in changes]
    ranked = sorted(range(len(changes)), key=lambda n: kinds[:n].count(kinds[n]))
    return World(
        now,
        tuple(customers),
        _mappings({s: p for s, p in payers.items() if s not in late}, live_subjects),
        tuple(changes[n] for n in ranked),
        subjects,
        ("stranger-1", "stranger-2"),
        live_subjects,
        days,
    )


def _monthly(subscription: str, began: int) -> Customer:
    tail = subscription.removeprefix("sub_")
    items = [
        Item(
            f"si_{tail}_{m.slug}_{m.aggregate}", subscription, f"price_{m.slug}", m.aggregate, began
        )
        for m in MONTHLY_METERS
    ]
    items += [
        Item(f"si_{tail}_{SPLIT}_{tier}_sum", subscription, f"price_{SPLIT}_{tier}", "sum", began)
        for tier in TIERS[:-1]
    ]
    return Customer(subscription, began, tuple(items))


def _daily(subscription: str, began: int) -> Customer:
    name = subscription.removeprefix("sub_").replace("-", "_")
    item = Item(f"si_{name}_sum", subscription, f"price_{LIVE}", "sum", began)
    return Customer(subscription, began, (item,))


def _mappings(payers: dict[str, str], live: Sequence[str]) -> Mappings:
    meters: dict[str, tuple[MeterEntry, ...]] = {
        m.slug: (MeterEntry(f"price_{m.slug}", scale=m.scale, record_per=m.record_per),)
        for m in MONTHLY_METERS
    }
    meters[LIVE] = (MeterEntry(f"price_{LIVE}", record_per="hour"),)
    paid = payers | {subject: f"sub_{subject}" for subject in live}
    return Mappings(meters, {subject: (Span(payer),) for subject, payer in paid.items()})
