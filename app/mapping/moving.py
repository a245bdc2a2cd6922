"""What a change of the mappings moves: usage on a record that has another place now. Pure.

A subject's windows move where another subscription pays at their time, a meter's where their groups
have another price. Scale, rounding, `record_per`, `late` and `timestamp` move nothing: what stands
stays as it was booked.

What cannot come down at Stripe any more is an obstacle: moved nevertheless, it would be billed at
its new place and owed to the customer at the old one.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from fractions import Fraction
from itertools import pairwise
from typing import Final, NamedTuple

from app.mapping.models import MeterMapping, PriceSelector, SubjectMapping, SubscriptionSnapshot
from app.mapping.resolution import Parked
from app.mapping.resolve import ENDED, billable_item
from app.mapping.splitting import matching

_EVER = datetime.min.replace(tzinfo=UTC)
_FOR_EVER = datetime.max.replace(tzinfo=UTC)


class Obstacle(StrEnum):
    """Why what Stripe holds of a record cannot come down."""

    PERIOD_CLOSED = "period_closed"
    ITEM_GONE = "item_gone"
    RECORD_HELD = "record_held"
    ONLY_INCREMENTS = "only_increments"
    NEWEST_COUNTS = "newest_counts"


OBSTACLES: Final[Mapping[Obstacle, str]] = {
    Obstacle.PERIOD_CLOSED: "its billing period is over",
    Obstacle.ITEM_GONE: "its item is gone, or its subscription ended",
    Obstacle.RECORD_HELD: "its record is held",
    Obstacle.ONLY_INCREMENTS: "billing thresholds take no decrease",
    Obstacle.NEWEST_COUNTS: "its price bills the newest record, which cannot be taken away",
}


class Span(NamedTuple):
    """Half-open; None is since ever, or for ever."""

    start: datetime | None
    end: datetime | None


@dataclass(frozen=True, slots=True)
class StandingUsage:
    """Booked windows that are alike in all that decides where they belong.

    `respanned`: the mapping of their subject is another one at their time. `to_subscription`: the
    one that pays by the new mapping, if any. `amount` in units, as booked; `at_stripe`: how many
    of the windows are on a record of which Stripe holds something.
    """

    meter: str
    groups: tuple[tuple[str, str], ...]
    subscription: str
    subscription_item: str
    period_start: datetime
    period_end: datetime
    respanned: bool
    to_subscription: str | None
    windows: int
    amount: Fraction
    at_stripe: int = 0
    obstacle: Obstacle | None = None
    whole_period: bool = False
    parked: bool = False


class PlaceOfUsage(NamedTuple):
    """What names the windows of a `StandingUsage` that move, and where to."""

    meter: str
    groups: tuple[tuple[str, str], ...]
    subscription_item: str
    to_subscription: str


@dataclass(frozen=True, slots=True)
class Move:
    """Windows of an item's billing period that move to another place."""

    subscription: str
    subscription_item: str
    period_start: datetime
    period_end: datetime
    to_subscription: str
    to_price: str
    obstacle: Obstacle | None
    windows: int
    amount: Fraction
    at_stripe: int


@dataclass(frozen=True, slots=True)
class Stay:
    """Windows whose place is another one now, or none, and that stay where they are; and why."""

    subscription: str
    subscription_item: str
    why: str
    windows: int


@dataclass(frozen=True, slots=True)
class Moves:
    """What a change moves, and what it leaves: each in the order of items and periods."""

    moves: tuple[Move, ...] = ()
    stays: tuple[Stay, ...] = ()

    @property
    def windows(self) -> int:
        """How many windows move."""
        return sum(move.windows for move in self.moves)

    @property
    def obstructed(self) -> tuple[Move, ...]:
        """The moves whose old side cannot come down."""
        return tuple(move for move in self.moves if move.obstacle is not None)


def changed_spans(
    before: Sequence[SubjectMapping], after: Sequence[SubjectMapping]
) -> tuple[Span, ...]:
    """The spans of time in which another subscription pays for a subject, or none any more."""
    bounds = {_EVER, _FOR_EVER}
    for mapping in (*before, *after):
        bounds |= {mapping.valid_from or _EVER, mapping.valid_to or _FOR_EVER}
    return tuple(
        Span(None if start == _EVER else start, None if end == _FOR_EVER else end)
        for start, end in pairwise(sorted(bounds))
        if _payer(before, start) != _payer(after, start)
    )


def _payer(mappings: Sequence[SubjectMapping], at: datetime) -> str | None:
    return next((mapping.subscription for mapping in mappings if mapping.covers(at)), None)


def prices_changed(before: Sequence[MeterMapping], after: Sequence[MeterMapping]) -> bool:
    """Whether some window of a meter may have another price.

    A price that is named beside those before moves nothing: what they name still does.
    """
    stood = {mapping.group_filter: mapping.price for mapping in before}
    wanted = {mapping.group_filter: mapping.price for mapping in after}
    return stood.keys() != wanted.keys() or any(
        not _still_named(stood[group_filter], price) for group_filter, price in wanted.items()
    )


def _still_named(before: PriceSelector, after: PriceSelector) -> bool:
    return before == after or bool(before.ids and before.ids <= after.ids)


def still_billable(snapshot: SubscriptionSnapshot, subscription_item: str) -> bool:
    """Whether the snapshot shows the item as one that takes usage records."""
    return (
        snapshot.found
        and snapshot.status not in ENDED
        and any(
            item.id == subscription_item
            and item.usage_type == "metered"
            and item.billing_meter is None
            for item in snapshot.items
        )
    )


def has_moved(
    usage: StandingUsage,
    before: Sequence[MeterMapping],
    mapping: MeterMapping | None,
    snapshots: Mapping[str, SubscriptionSnapshot],
) -> bool:
    """Whether the place of usage is another one by the new mappings, or none any more.

    `before`: the mappings of its meter as they were; `mapping`: the one that takes it now. An item
    that a plan change put in another's place is no other place: only the mappings decide.
    """
    if usage.respanned and usage.to_subscription != usage.subscription:
        return True
    stood = matching(before, dict(usage.groups))
    if stood is not None and mapping is not None and _still_named(stood.price, mapping.price):
        return False
    if mapping is None:
        return stood is not None
    if usage.to_subscription != usage.subscription:
        return True
    snapshot = snapshots.get(usage.subscription)
    if snapshot is None:
        return True
    item = billable_item(snapshot, mapping, snapshot.fetched_at)
    return isinstance(item, Parked) or item.id != usage.subscription_item


def _stays(usage: StandingUsage, mapping: MeterMapping | None) -> str | None:
    """Why usage stays that the mappings have another place for, or none; None if it moves."""
    if usage.to_subscription is None:
        return "no mapping of their subject is valid at their time any more"
    if mapping is None:
        return "no mapping of their meter takes their groups any more"
    if usage.whole_period:
        return "the value of a whole period stays where it was asked for"
    if usage.parked:
        return "a correction of them is parked"
    return None


def decide(
    found: Iterable[StandingUsage],
    *,
    before: Mapping[str, Sequence[MeterMapping]],
    after: Mapping[str, Sequence[MeterMapping]],
    snapshots: Mapping[str, SubscriptionSnapshot],
) -> tuple[Moves, frozenset[PlaceOfUsage]]:
    """What moves and what stays, and what names the windows that move.

    `before`, `after`: the mappings of all meters of the usage.
    """
    moving: dict[tuple[object, ...], list[tuple[StandingUsage, Move]]] = defaultdict(list)
    staying: dict[tuple[str, str, str], int] = defaultdict(int)
    places: set[PlaceOfUsage] = set()
    for usage in found:
        mapping = matching(after.get(usage.meter, ()), dict(usage.groups))
        if not has_moved(usage, before.get(usage.meter, ()), mapping, snapshots):
            continue
        why = _stays(usage, mapping)
        if why is not None or mapping is None or usage.to_subscription is None:
            staying[usage.subscription, usage.subscription_item, why or ""] += usage.windows
            continue
        move = _move(usage, usage.to_subscription, mapping, snapshots.get(usage.subscription))
        key = (move.subscription_item, move.period_start, move.to_subscription, move.to_price)
        moving[*key, move.obstacle or ""].append((usage, move))
        places.add(
            PlaceOfUsage(usage.meter, usage.groups, usage.subscription_item, usage.to_subscription)
        )
    return Moves(
        tuple(_together([move for _, move in entries]) for _, entries in sorted(moving.items())),
        tuple(Stay(*names, windows) for names, windows in sorted(staying.items())),
    ), frozenset(places)


def _move(
    usage: StandingUsage,
    subscription: str,
    mapping: MeterMapping,
    snapshot: SubscriptionSnapshot | None,
) -> Move:
    obstacle = usage.obstacle
    if usage.at_stripe and obstacle is None and snapshot is not None:
        gone = not still_billable(snapshot, usage.subscription_item)
        obstacle = Obstacle.ITEM_GONE if gone else None
    return Move(
        usage.subscription,
        usage.subscription_item,
        usage.period_start,
        usage.period_end,
        subscription,
        mapping.price.describe(),
        obstacle,
        usage.windows,
        usage.amount,
        usage.at_stripe,
    )


def _together(moves: Sequence[Move]) -> Move:
    first = moves[0]
    return Move(
        first.subscription,
        first.subscription_item,
        first.period_start,
        first.period_end,
        first.to_subscription,
        first.to_price,
        first.obstacle,
        sum(move.windows for move in moves),
        sum((move.amount for move in moves), Fraction(0)),
        sum(move.at_stripe for move in moves),
    )
