"""The customers of the simulation: their subscriptions, their syncs, and what happens to them.

Everything is drawn from a seed; times are Unix seconds.
"""

import random
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from app.sandbox.periods import Cycle, Interval

MINUTE, HOUR, DAY = 60, 3600, 86_400
START = int(datetime(2024, 1, 1, tzinfo=UTC).timestamp())
"""A leap year: the 29th of February is a boundary in it."""


class Sync(StrEnum):
    """How often OpenMeter reports."""

    HOURLY = "hourly"
    DAILY = "daily"


class Kind(StrEnum):
    """What is special about a subscription's periods."""

    LAST_DAY = "the 31st, at midnight"
    MID_DAY = "mid-day, odd second"
    LEAP_DAY = "the 29th, leap day, 23:59:59"
    TRIAL = "trial end"
    FRACTIONS = "mid-day, quarter units (scale 4)"
    BERLIN = "days of Europe/Berlin"
    NEW_YORK = "days of America/New_York"
    CANCEL_AT = "cancel_at"
    CANCEL_AT_PERIOD_END = "cancel_at_period_end"
    NEW_SUBSCRIPTION = "new subscription, old one with cancel_at"
    NEW_ITEM = "plan change, same period"
    NEW_PERIOD = "plan change, new period"
    NEW_SUBSCRIPTION_AT_ONCE = "new subscription, old one canceled at once"
    THRESHOLD = "threshold that resets the anchor"


UNANNOUNCED = frozenset({Kind.NEW_PERIOD, Kind.NEW_SUBSCRIPTION_AT_ONCE, Kind.THRESHOLD})
"""Their periods end (some of them) at a moment that nobody knows before."""
ZONES = {Kind.BERLIN: "Europe/Berlin", Kind.NEW_YORK: "America/New_York"}
ENDING = frozenset({Kind.CANCEL_AT, Kind.CANCEL_AT_PERIOD_END})


class Change(StrEnum):
    """What somebody, or a threshold, does to a subscription."""

    CANCEL_AT_PERIOD_END = "cancel_at_period_end"
    NEW_SUBSCRIPTION = "new_subscription"
    NEW_ITEM = "new_item"
    NEW_PERIOD = "new_period"
    THRESHOLD = "threshold"


CHANGES = {
    Kind.CANCEL_AT_PERIOD_END: Change.CANCEL_AT_PERIOD_END,
    Kind.NEW_SUBSCRIPTION: Change.NEW_SUBSCRIPTION,
    Kind.NEW_SUBSCRIPTION_AT_ONCE: Change.NEW_SUBSCRIPTION,
    Kind.NEW_ITEM: Change.NEW_ITEM,
    Kind.NEW_PERIOD: Change.NEW_PERIOD,
    Kind.THRESHOLD: Change.THRESHOLD,
}
TWICE = frozenset({Change.NEW_ITEM, Change.NEW_PERIOD, Change.THRESHOLD})


@dataclass(frozen=True, slots=True)
class Plan:
    """One customer. `units_per_second` of usage; each event tells whole seconds of it.

    `started`: when the subscription began, before the simulation. `changes`: when what `CHANGES`
    says of the kind happens. `cancel_at`: known from the beginning.
    """

    number: int
    kind: Kind
    sync: Sync
    units_per_second: int
    started: int
    trial_end: int | None
    cancel_at: int | None
    changes: tuple[int, ...]

    @property
    def subject(self) -> str:
        """Whom events are about."""
        return f"customer-{self.number:02}"

    @property
    def meter(self) -> str:
        """Each sync has a meter; so have the quarter units."""
        return "quarters" if self.kind is Kind.FRACTIONS else f"{self.sync}_units"

    @property
    def subscription(self) -> str:
        """Its first subscription."""
        return f"sub_{self.number:02}"

    @property
    def zone(self) -> str:
        """Whose days a daily sync reports."""
        return ZONES.get(self.kind, "UTC")


YEAR = [
    *[(kind, Sync.HOURLY) for kind in (Kind.LAST_DAY, Kind.MID_DAY, Kind.NEW_ITEM, Kind.THRESHOLD)],
    *[(kind, Sync.DAILY) for kind in Kind for _ in range(2)],
    *[(kind, Sync.DAILY) for kind in Kind],
    *[(Kind.LEAP_DAY, Sync.DAILY), (Kind.BERLIN, Sync.DAILY), (Kind.NEW_YORK, Sync.DAILY)],
    (Kind.MID_DAY, Sync.DAILY),
]
"""Fifty: 4 hourly, 46 daily. An hourly sync tells as many windows as 24 daily ones."""
QUARTER = [
    (Kind.MID_DAY, Sync.HOURLY),
    (Kind.NEW_ITEM, Sync.DAILY),
    (Kind.LAST_DAY, Sync.DAILY),
    (Kind.LEAP_DAY, Sync.DAILY),
    (Kind.TRIAL, Sync.DAILY),
    (Kind.FRACTIONS, Sync.DAILY),
    (Kind.BERLIN, Sync.DAILY),
    (Kind.NEW_YORK, Sync.DAILY),
    (Kind.CANCEL_AT, Sync.DAILY),
    (Kind.NEW_SUBSCRIPTION, Sync.DAILY),
    (Kind.NEW_PERIOD, Sync.DAILY),
    (Kind.THRESHOLD, Sync.DAILY),
]
"""Twelve, one of each but those that need longer than three months to tell anything."""


ODD_ANCHORS = 4
"""So many odd moments are the anchors of all: each end of a period costs ten steps."""


def drawing(*of: object) -> random.Random:
    """Chance that is the same every time."""
    return random.Random(repr(of))  # noqa: S311 - nothing here is to be kept secret


def draw_plans(mix: list[tuple[Kind, Sync]], *, days: int, seed: int) -> list[Plan]:
    """The customers of a mix, for a simulation of so many days."""
    draw = drawing("plans", seed)
    odd = [START - draw.randrange(3 * DAY, 27 * DAY) for _ in range(ODD_ANCHORS)]
    return [
        _plan(number, kind, sync, days, odd, draw) for number, (kind, sync) in enumerate(mix, 1)
    ]


def _plan(
    number: int, kind: Kind, sync: Sync, days: int, odd: list[int], draw: random.Random
) -> Plan:
    anchor = draw.choice(odd)
    others = [at for at in odd if at != anchor]

    def between(first: float, last: float) -> int:
        """In mid-period: an odd moment at which another one's period ends, in these days."""
        span = range(START + int(days * first * DAY), START + int(days * last * DAY))
        ends = [Cycle(at, Interval.MONTH).boundary(n) for at in others for n in range(1, 13)]
        return draw.choice([at for at in ends if at in span] or span)

    started = {
        Kind.LAST_DAY: int(datetime(2023, 12, 31, tzinfo=UTC).timestamp()),
        Kind.LEAP_DAY: int(datetime(2023, 12, 29, 23, 59, 59, tzinfo=UTC).timestamp()),
        Kind.TRIAL: START,
    }.get(kind, anchor)
    changes = [between(0.25, 0.5)] if kind in CHANGES else []
    if CHANGES.get(kind) in TWICE:
        changes.append(between(0.6, 0.85))
    return Plan(
        number,
        kind,
        sync,
        draw.randint(1, 9),
        started=started,
        trial_end=Cycle(anchor, Interval.MONTH).boundary(1) if kind is Kind.TRIAL else None,
        cancel_at=between(0.5, 0.75)
        if kind is Kind.CANCEL_AT
        else changes[0]
        if kind is Kind.NEW_SUBSCRIPTION
        else None,
        changes=tuple(changes),
    )
