"""The demo's proof: what was sent against what Stripe holds and what the service answered. Pure.

Everything here is worked out anew from the deliveries: nothing of the program's own booking is
used, and nothing of its database.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from math import floor

from app.commands.demo_scenario import BilledItem, Delivery

Groups = tuple[tuple[str, str], ...]
ParkedKey = tuple[str, str, str]
"""(subject, meter, reason)."""


@dataclass(frozen=True, slots=True)
class StandingWindow:
    """A window as OpenMeter means it in the end: the newest message about it counts."""

    subject: str
    meter: str
    window_start: datetime
    window_end: datetime
    groups: Groups
    value: Decimal
    parked: str | None


@dataclass(frozen=True, slots=True)
class ItemComparison:
    """One subscription item: `exact` units were sent, `wanted` is the whole number they come to.

    `held` is what stands at Stripe; None where Stripe shows no such item.
    """

    item: str
    windows: tuple[StandingWindow, ...]
    scale: Fraction
    held: int | None

    @property
    def exact(self) -> Fraction:
        """Units sent."""
        return sum((Fraction(window.value) for window in self.windows), Fraction(0)) * self.scale

    @property
    def wanted(self) -> int:
        """Units sent, rounded half up as the mapping file says."""
        return floor(self.exact + Fraction(1, 2))

    @property
    def equal(self) -> bool:
        """Whether Stripe holds what was sent, to the unit."""
        return self.held == self.wanted


@dataclass(frozen=True, slots=True)
class Answered:
    """A delivery and the status of its answer."""

    delivery: Delivery
    status: int

    @property
    def expected(self) -> bool:
        """Whether it is the answer that was due."""
        return self.status == self.delivery.status


@dataclass(frozen=True, slots=True)
class FaultSeen:
    """An injected fault, and what had to be seen of it."""

    title: str
    seen: bool


def standing(deliveries: Iterable[Delivery]) -> list[StandingWindow]:
    """Every window that was signed for, once, with the value of its newest message."""
    newest: dict[object, tuple[datetime, StandingWindow]] = {}
    for delivery in deliveries:
        if delivery.forged:
            continue
        for window in delivery.windows:
            groups = tuple(sorted(window.group_by.items()))
            key = (delivery.subject, delivery.meter, window.window_start, window.window_end, groups)
            found = StandingWindow(*key, window.value, delivery.parked)
            if key not in newest or newest[key][0] < delivery.created:
                newest[key] = delivery.created, found
    return [window for _, window in newest.values()]


def compare(
    windows: Iterable[StandingWindow],
    billed: Mapping[tuple[str, str], BilledItem],
    held: Mapping[str, int],
) -> list[ItemComparison]:
    """The two sides, item by item: those that were used, and those that hold what nobody sent."""
    used: dict[BilledItem, list[StandingWindow]] = {}
    for window in windows:
        if window.parked is None:
            used.setdefault(billed[window.subject, window.meter], []).append(window)
    found = [
        ItemComparison(item.id, tuple(parts), item.scale, held.get(item.id))
        for item, parts in used.items()
    ]
    known = {item.id for item in used}
    strays = [
        ItemComparison(item, (), Fraction(1), total)
        for item, total in held.items()
        if total and item not in known
    ]
    return found + strays


def differences(
    *,
    items: Sequence[ItemComparison],
    answers: Sequence[Answered],
    windows: Sequence[StandingWindow],
    parked: Iterable[ParkedKey],
    faults: Sequence[FaultSeen],
    held_records: int,
) -> list[str]:
    """Everything that is not as it must be, in words. Empty: the demo has shown what it promised.

    `parked` is what the service says it has parked, `held_records` how many records it holds back.
    """
    wrong = [
        f"{item.item}: OpenMeter sent {item.wanted}, Stripe holds "
        f"{'nothing' if item.held is None else item.held}"
        for item in items
        if not item.equal
    ]
    wrong += [
        f"{a.delivery.title!r} was answered {a.status}, not {a.delivery.status}"
        for a in answers
        if not a.expected
    ]
    due = Counter((w.subject, w.meter, w.parked) for w in windows if w.parked is not None)
    seen = Counter(parked)
    wrong += [f"not parked as it should be: {' '.join(key)}" for key in due - seen]
    wrong += [f"parked without need: {' '.join(key)}" for key in seen - due]
    wrong += [f"{fault.title}: not seen" for fault in faults if not fault.seen]
    if held_records:
        wrong.append(f"{held_records} usage records are held")
    return wrong
