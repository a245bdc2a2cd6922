"""What must be billed, from the rules alone: plain values, no database, no code of the program.

Of each window the newest message counts. A period of an item holds the exact sum of its windows,
scaled, rounded once on the total and never below zero; of a `max` price each record is the rounded
maximum of its windows. What a closed period lacks is carried to the current one; what it has too
much is taken back from what was carried there, and the rest is credit due.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from math import ceil, floor
from typing import Final, NamedTuple

HOUR: Final = 3_600
DAY: Final = 24 * HOUR
# The lump of usage from before everything that is known of an item.
BEFORE: Final = -1_000
ROUNDINGS: Final = ("half_up", "half_even", "up", "down")


class Window(NamedTuple):
    """One fact of usage: an hour of a meter, subject and group (empty: none)."""

    meter: str
    subject: str
    group: str
    start: int

    @property
    def end(self) -> int:
        """Unix seconds; exclusive."""
        return self.start + HOUR


class Place(NamedTuple):
    """A billing period of an item, by its number."""

    item: str
    period: int


@dataclass(frozen=True, slots=True)
class Subscription:
    """A subscription whose periods are all equally long."""

    name: str
    anchor: int
    length: int

    def current(self, now: int) -> int:
        """The number of the period that is open."""
        return (now - self.anchor) // self.length

    def period_of(self, second: int) -> int:
        """The number of the period that a record at this second belongs to: (start, end]."""
        return (second - self.anchor - 1) // self.length

    def start(self, period: int) -> int:
        """When a period begins."""
        return self.anchor + period * self.length


@dataclass(frozen=True, slots=True)
class Rule:
    """A meter mapping: which price, and how."""

    price: str
    scale: Fraction = Fraction(1)
    record_per: str = "window"
    rounding: str = "half_up"
    timestamp: str = "inside"
    late: str = "carry_forward"


@dataclass(frozen=True, slots=True)
class Booked:
    """What the ledger says of a window. `item`, `period`, `second` are null where it is parked."""

    state: str
    reason: str | None = None
    item: str | None = None
    period: int | None = None
    second: int | None = None


@dataclass(slots=True)
class Standing:
    """A booked window: it stays on its record, scaled as it was, and only its value moves."""

    place: Place
    second: int
    scale: Fraction
    value: Fraction

    @property
    def amount(self) -> Fraction:
        """Units, exact."""
        return self.value * self.scale


def rounded(total: Fraction, rounding: str) -> int:
    """A total as Stripe takes it: whole, and not below zero."""
    half = floor(total + Fraction(1, 2))
    even = half - 1 if half - total == Fraction(1, 2) and half % 2 else half
    whole = {"half_up": half, "half_even": even, "up": ceil(total), "down": floor(total)}
    return max(0, whole[rounding])


@dataclass(frozen=True, slots=True)
class Told:
    """What the ledger tells of an item: credit due, and what is carried to its open period."""

    credit_due: int = 0
    carried: int = 0
    in_doubt: int = 0


Stripe = Mapping[str, Mapping[int, Mapping[int, int]]]
"""What Stripe holds: item -> period -> second -> quantity."""


@dataclass
class Billing:
    """The model. Times are Unix seconds."""

    subscriptions: dict[str, Subscription]
    items: dict[tuple[str, str], str]  # (subscription, price) -> item
    max_items: frozenset[str]
    hold_items: frozenset[str]
    grace: int
    rules: dict[tuple[str, str], Rule] = field(default_factory=dict)  # (meter, group)
    spans: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    facts: dict[Window, tuple[tuple[int, str], Fraction]] = field(default_factory=dict)
    standing: dict[Window, Standing] = field(default_factory=dict)
    rounding: dict[Place, str] = field(default_factory=dict)
    brought: dict[Place, int] = field(default_factory=dict)
    credit: dict[str, int] = field(default_factory=dict)
    seen: dict[str, set[int]] = field(default_factory=dict)
    # Items of which something was done since the last drain that the model did not follow.
    unfollowed: set[str] = field(default_factory=set)
    touched: set[str] = field(default_factory=set)
    # Booked windows that a mapping gave another price: they leave their records.
    moving: set[Window] = field(default_factory=set)
    # A POST may stay in doubt: its process was killed, or Stripe stored an error under its key.
    unheard: bool = False
    adopted: int = 0

    def tell(self, window: Window, order: tuple[int, str], value: Fraction) -> None:
        """A message was delivered: only the newest counts."""
        if window not in self.facts or order > self.facts[window][0]:
            self.facts[window] = order, value

    def look(self, subscription: str, now: int) -> None:
        """The program read a subscription."""
        self.seen.setdefault(subscription, set()).add(self.subscriptions[subscription].current(now))

    def owner(self, item: str) -> Subscription:
        """The subscription of an item."""
        [name] = {name for (name, _), found in self.items.items() if found == item}
        return self.subscriptions[name]

    def rule(self, window: Window) -> Rule:
        """The mapping of a window as it is now."""
        return self.rules[window.meter, self.group_of(window)]

    def mapped(self, window: Window) -> str:
        """The subscription that pays for a window: the one of its time."""
        valid = [(since, name) for since, name in self.spans[window.subject] if since < window.end]
        return max(valid)[1]

    def in_grace(self, item: str, now: int) -> int | None:
        """The number of the period that Stripe still takes usage for, beside the open one."""
        owner = self.owner(item)
        current = owner.current(now)
        within = now < owner.start(current) + self.grace and item not in self.max_items
        return current - 1 if within else None

    def book(
        self, now: int, ledger: Mapping[Window, Booked], roundings: Mapping[Place, str]
    ) -> None:
        """All that was delivered is booked. Where the rules leave a choice the ledger's is taken,
        after a look that it is one of those allowed."""
        rows = {here.place for here in self.standing.values()}
        rows |= {place for place, units in self.brought.items() if units}
        before = self._totals()
        fresh: dict[Place, set[str]] = {}
        moved: set[Place] = set()
        for window, (_, value) in self.facts.items():
            found = ledger[window]
            if window in self.moving:
                moved |= self._moved_on(window, found, now)
                if window in self.moving:
                    continue
            here = self.standing.get(window)
            if here is None:
                here = self._place(window, now, found, rows)
                if here is None:
                    continue
                self.standing[window] = here
                fresh.setdefault(here.place, set()).add(self.rule(window).rounding)
                if here.place.period < self.owner(here.place.item).current(now):
                    self.touched.add(here.place.item)
            else:
                assert found.state == "booked", (window, found)
                assert (found.item, found.period, found.second) == (*here.place, here.second)
                if here.value != value:
                    moved.add(here.place)
                    if here.place.period < self.owner(here.place.item).current(now):
                        self.touched.add(here.place.item)
            here.value = value
        for place, new in fresh.items():
            old = self.rounding.get(place)
            allowed = new if old is None else {old}
            if (
                old is not None
                and place.item not in self.max_items
                and (before.get(place, 0) == 0 or place in moved)
            ):
                allowed = new | {old}
            assert roundings[place] in allowed, (place, roundings[place], allowed)
            self.rounding[place] = roundings[place]

    def _moved_on(self, window: Window, found: Booked, now: int) -> set[Place]:
        """Follow a window that is moved: it leaves its record, and is booked anew later on."""
        here = self.standing.get(window)
        stays = here is not None and found.item == here.place.item
        if found.state != "pending":
            self.moving.discard(window)
        if here is None or stays:
            return set()
        del self.standing[window]
        if here.place.period < self.owner(here.place.item).current(now):
            self.touched.add(here.place.item)
        return {here.place}

    def _place(self, window: Window, now: int, found: Booked, rows: set[Place]) -> Standing | None:
        """Where a new window must stand; None where it is kept away from Stripe."""
        rule, name = self.rule(window), self.mapped(window)
        owner, item = self.subscriptions[name], self.items[name, rule.price]
        own = window.end - 1 if rule.timestamp == "inside" else window.end
        period, current = owner.period_of(own), owner.current(now)
        assert period <= current
        homes = {period}
        if period < current:
            known = Place(item, period) in rows or (
                period == current - 1 and period in self.seen.get(name, ())
            )
            homes = {period} if known else {period, BEFORE}
            carried = item not in self.max_items and item not in self.hold_items
            if not carried and not (self.in_grace(item, now) == period and found.state == "booked"):
                assert not (self.in_grace(item, now) == period and known), (window, found)
                return None
        assert found.state == "booked", (window, found)
        assert found.item == item, (window, found, item)
        assert found.period in homes, (window, found, homes)
        second = _second(own, rule, BEFORE if found.period == BEFORE else owner.start(found.period))
        assert found.second == second, (window, found, second)
        value = Fraction(0)
        return Standing(Place(item, found.period), second, rule.scale, value)

    def _totals(self) -> dict[Place, Fraction]:
        totals: dict[Place, Fraction] = {}
        for here in self.standing.values():
            totals[here.place] = totals.get(here.place, Fraction(0)) + here.amount
        return totals

    def wanted(self, place: Place) -> int:
        """What the windows of an item's period come to."""
        total = self._totals().get(place, Fraction(0))
        return rounded(total, self.rounding.get(place, "half_up"))

    def maxima(self, place: Place) -> dict[int, int]:
        """What must stand on each record of a `max` price, without those of zero."""
        amounts: dict[int, Fraction] = {}
        for here in self.standing.values():
            if here.place == place:
                amounts[here.second] = max(here.amount, amounts.get(here.second, here.amount))
        found = {at: rounded(amount, self.rounding[place]) for at, amount in amounts.items()}
        return {at: quantity for at, quantity in found.items() if quantity}

    def follow(self, now: int, told: Mapping[str, Told]) -> None:
        """Something was done between two drains: what was carried, or is owed, is taken over. The
        next drain proves that it adds up."""
        for item in self.items.values():
            self.brought[Place(item, self.owner(item).current(now))] = told[item].carried
            self.credit[item] = told[item].credit_due
            self.unfollowed.add(item)

    def drained(self, now: int, before: Stripe, after: Stripe, told: Mapping[str, Told]) -> None:
        """Everything is sent: Stripe holds exactly this."""
        for item in sorted(self.items.values()):
            self._closed_is_closed(item, now, before, after)
            if item in self.max_items:
                self._max_drained(item, now, after)
            else:
                self._sum_drained(item, now, after, told[item])
        assert not self.moving
        self.unfollowed.clear()
        self.touched.clear()

    def _closed(self, item: str, now: int, periods: Iterable[int]) -> list[int]:
        current, grace = self.owner(item).current(now), self.in_grace(item, now)
        return sorted(p for p in periods if p < current and p != grace)

    def _closed_is_closed(self, item: str, now: int, before: Stripe, after: Stripe) -> None:
        for period in self._closed(item, now, before[item]):
            assert after[item][period] == before[item][period], (item, period)

    def _max_drained(self, item: str, now: int, after: Stripe) -> None:
        place = Place(item, self.owner(item).current(now))
        held = {at: quantity for at, quantity in after[item][place.period].items() if quantity}
        assert held == self.maxima(place), (place, held, self.maxima(place))

    def _sum_drained(self, item: str, now: int, after: Stripe, told: Told) -> None:
        current, grace = self.owner(item).current(now), self.in_grace(item, now)
        here = Place(item, current)
        used = {s.place.period for s in self.standing.values() if s.place.item == item}
        closed = self._closed(item, now, used | set(after[item]))
        brought_before = 0 if grace is None else self.brought.get(Place(item, grace), 0)
        if item not in self.hold_items:
            stood = sum(sum(after[item].get(period, {}).values()) for period in closed)
            lacking = sum(self.wanted(Place(item, period)) for period in closed)
            lacking -= stood + brought_before + told.in_doubt
            self._carry(here, lacking, told)
        else:
            assert (told.credit_due, told.carried) == (0, 0), (item, told)
        for place in (here, *(() if grace is None else (Place(item, grace),))):
            total = sum(after[item].get(place.period, {}).values())
            must = self.wanted(place) + self.brought.get(place, 0)
            assert total == must, (place, "Stripe holds", total, "must be", must)

    def _carry(self, here: Place, lacking: int, told: Told) -> None:
        """Carry what all closed periods lack together, less what is owed."""
        before = self.credit.get(here.item, 0)
        credit = max(before, -lacking)
        if told.credit_due != credit and here.item in self.unfollowed | self.touched:
            # Which record a difference falls on decides, and which came first: what is owed of one
            # is not set off against what another one carries later.
            assert told.credit_due >= max(0, -lacking), (here, told, lacking)
            credit = told.credit_due
            self.adopted += 1
        assert told.credit_due == credit, (here, "credit due", told, "must be", credit, lacking)
        self.credit[here.item] = credit
        self.brought[here] = lacking + credit
        assert told.carried == lacking + credit, (here, told, "must be", lacking + credit)

    def change(self, meter: str, group: str, **members: object) -> None:
        """Another mapping, for windows that are not booked yet."""
        key = (meter, group)
        self.rules[key] = replace(self.rules[key], **members)  # type: ignore[arg-type]

    def reprice(self, group: str, price: str, now: int, *, refused: bool) -> None:
        """Another price, also for booked windows; not where Stripe holds one of a closed period."""
        leaving = {
            window
            for window, here in self.standing.items()
            if (window.meter, self.group_of(window)) == ("tokens", group)
            and here.place.item != self.items[self.owner(here.place.item).name, price]
        }
        if refused:
            assert any(
                self.standing[window].place.period
                < self.owner(self.standing[window].place.item).current(now)
                for window in leaving
            ), "refused for nothing"
            return
        self.change("tokens", group, price=price)
        self.moving |= leaving

    def group_of(self, window: Window) -> str:
        """The group of the mapping that takes a window."""
        return window.group if (window.meter, window.group) in self.rules else ""

    def move(self, subject: str, subscription: str, since: int) -> None:
        """The subject is paid by another subscription from a time on."""
        self.spans[subject].append((since, subscription))


def _second(own: int, rule: Rule, start: int) -> int:
    """The second of the record of a window whose own second is `own`."""
    lump = start == BEFORE
    start = 0 if lump else start
    bucket = None if lump else {"hour": HOUR, "day": DAY}.get(rule.record_per)
    if rule.record_per == "period":
        return start + 2
    return own if bucket is None else max(own - own % bucket, start + 1)
