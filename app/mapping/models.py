"""The nouns of mapping, as frozen values. Pure."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from fractions import Fraction


class Rounding(StrEnum):
    """How the exact total of an item's period becomes the whole number that Stripe takes."""

    HALF_UP = "half_up"
    HALF_EVEN = "half_even"
    UP = "up"
    DOWN = "down"


class TimestampRule(StrEnum):
    """At which second of its window a usage record stands."""

    INSIDE = "inside"  # window_end - 1 s: stays in the period that the window lies in
    WINDOW_END = "window_end"  # OpenMeter's published recipe to the letter


class RecordPer(StrEnum):
    """Which windows of an item make one usage record."""

    WINDOW = "window"
    HOUR = "hour"  # of UTC, as is the day
    DAY = "day"
    PERIOD = "period"  # one record per item and billing period


class LatePolicy(StrEnum):
    """What becomes of usage whose billing period is closed at Stripe."""

    CARRY_FORWARD = "carry_forward"  # it is added to a record of the period that is open now
    HOLD = "hold"  # it waits for somebody, as `period_closed`


class Combination(StrEnum):
    """How a price's `aggregate_usage` combines the records of a period."""

    SUM = "sum"
    MAX = "max"
    LATEST = "latest"  # last_during_period, last_ever


@dataclass(frozen=True, slots=True)
class PriceSelector:
    """Names the price of a meter by exactly one of: ids, lookup key, metadata."""

    ids: frozenset[str] = frozenset()
    lookup_key: str | None = None
    metadata: tuple[tuple[str, str], ...] = ()

    def matches(self, item: "SnapshotItem") -> bool:
        """Whether the item's price is one of those named."""
        if self.ids:
            return item.price_id in self.ids
        if self.lookup_key is not None:
            return item.lookup_key == self.lookup_key
        held = dict(item.price_metadata)
        return bool(self.metadata) and all(held.get(key) == value for key, value in self.metadata)

    def describe(self) -> str:
        """The selector in words, for operators."""
        if self.ids:
            return "price " + " or ".join(sorted(self.ids))
        if self.lookup_key is not None:
            return f"the price with lookup_key {self.lookup_key}"
        return "the price with metadata " + ", ".join(f"{k}={v}" for k, v in self.metadata)


@dataclass(frozen=True, slots=True)
class MeterMapping:
    """A meter and the price that bills it. `scale` is units per value, exact.

    `group_filter` splits a meter by group: the mapping is for the windows whose groups have all of
    these values; an empty one is for those that no other mapping of the meter takes.
    `late_policy` is None where the instance's setting decides.
    """

    meter: str
    price: PriceSelector
    scale: Fraction = Fraction(1)
    rounding: Rounding = Rounding.HALF_UP
    timestamp_rule: TimestampRule = TimestampRule.INSIDE
    group_filter: tuple[tuple[str, str], ...] = ()
    record_per: RecordPer = RecordPer.WINDOW
    late_policy: LatePolicy | None = None
    whole_period: bool = False


@dataclass(frozen=True, slots=True)
class SubjectMapping:
    """A subject and the Stripe subscription that pays for it in [valid_from, valid_to)."""

    subject: str
    subscription: str
    valid_from: datetime | None = None
    valid_to: datetime | None = None

    def covers(self, at: datetime) -> bool:
        """Whether the mapping is valid at a time."""
        return (self.valid_from is None or self.valid_from <= at) and (
            self.valid_to is None or at < self.valid_to
        )


@dataclass(frozen=True, slots=True)
class SnapshotItem:
    """One item of a subscription as Stripe last told it. Period bounds in UTC.

    `previous_start`, `previous_end`: the period before, where it was seen while it was current.
    """

    id: str
    price_id: str
    lookup_key: str | None
    price_metadata: tuple[tuple[str, str], ...]
    usage_type: str | None
    aggregate_usage: str | None
    billing_meter: str | None
    billing_thresholds: bool
    period_start: datetime
    period_end: datetime
    previous_start: datetime | None = None
    previous_end: datetime | None = None


@dataclass(frozen=True, slots=True)
class SubscriptionSnapshot:
    """What Stripe last said of a subscription. `found` is false where it knew none."""

    subscription: str
    fetched_at: datetime
    found: bool
    status: str = ""
    livemode: bool = False
    billing_thresholds: bool = False
    items: tuple[SnapshotItem, ...] = ()
    cancel_at: datetime | None = None
    cancel_at_period_end: bool = False
    customer: str | None = None
    # When the subscription began; None where Stripe does not tell.
    started_at: datetime | None = None
