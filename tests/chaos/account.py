"""The independent account: what was told, and what must stand at Stripe for it.

Written from the rules that users are told, and from nothing of the program: the newest message of
a window wins; a window belongs to the billing period that its last second lies in; an item owes,
for each of its periods, the rounded sum (or maximum) of its windows.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from typing import NamedTuple

from tests.chaos.mappings import Groups, Mappings


class Window(NamedTuple):
    """What names a usage window; its bounds are Unix seconds, half-open."""

    meter: str
    subject: str
    groups: Groups
    start: int
    end: int

    @property
    def last_second(self) -> int:
        """The second that says in which billing period it is."""
        return self.end - 1


class Order(NamedTuple):
    """When a message was made, in 4 ms steps, and its id: what makes one of two the newer."""

    steps: int
    svix_id: str


class Period(NamedTuple):
    """A billing period, from after `start` up to and including `end`."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Item:
    """A subscription item at Stripe, as it was made."""

    id: str
    subscription: str
    price: str
    aggregate: str  # sum or max
    began: int


@dataclass(slots=True)
class Account:
    """Everything that accepted messages told."""

    told: dict[Window, tuple[Order, Decimal]] = field(default_factory=dict)

    def tell(self, order: Order, values: Mapping[Window, Decimal]) -> None:
        """A message was accepted."""
        for window, value in values.items():
            before = self.told.get(window)
            if before is None or before[0] < order:
                self.told[window] = (order, value)

    def value(self, window: Window) -> Decimal:
        """What the newest message said."""
        return self.told[window][1]


@dataclass(frozen=True, slots=True)
class Owed:
    """Item -> period -> units; windows that nobody pays for, with the reason; billed windows."""

    units: dict[str, dict[Period, int]]
    parked: dict[Window, str]
    billed: frozenset[Window]


def half_up(value: Fraction) -> int:
    """The nearest whole number; a half goes up. No value here is below zero."""
    return int((2 * value + 1) // 2)


def owed(
    account: Account,
    mappings: Mappings,
    items: Sequence[Item],
    periods: Mapping[str, Sequence[Period]],
) -> Owed:
    """What must stand at Stripe by the mappings as they are now. `periods` are Stripe's own."""
    by_price = {(item.subscription, item.price): item for item in items}
    amounts: dict[str, dict[Period, list[Fraction]]] = defaultdict(lambda: defaultdict(list))
    parked: dict[Window, str] = {}
    for window in account.told:
        subscription = mappings.payer_of(window.subject, window.last_second)
        if subscription is None:
            parked[window] = "no_subject_mapping"
            continue
        entry = mappings.price_of(window.meter, window.groups)
        item = by_price[subscription, entry.price]
        if window.last_second <= item.began:
            parked[window] = "before_subscription"
            continue
        period = _period(periods[item.id], window.last_second)
        amounts[item.id][period].append(Fraction(account.value(window)) * entry.scale)
    adds_up = {item.id: item.aggregate == "sum" for item in items}
    units = {
        item: {
            period: half_up(sum(found, Fraction(0)) if adds_up[item] else max(found))
            for period, found in by_period.items()
        }
        for item, by_period in amounts.items()
    }
    return Owed(units, parked, frozenset(account.told.keys() - parked.keys()))


def _period(periods: Iterable[Period], second: int) -> Period:
    return next(period for period in periods if period.start < second <= period.end)
