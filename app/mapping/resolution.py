"""What resolving is asked, and what it says: the nouns of `resolve`. Pure."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from fractions import Fraction
from typing import NamedTuple

from app.mapping.models import (
    Combination,
    LatePolicy,
    MeterMapping,
    Rounding,
    SnapshotItem,
    SubjectMapping,
)
from app.mapping.reasons import ParkReason

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class WindowSource(StrEnum):
    """Where a usage window comes from: a delivery, or OpenMeter's query API."""

    WEBHOOK = "webhook"
    PART = "part"  # of a window that straddles a billing period's boundary
    FLUSH = "flush"  # provisional: what was used shortly before a billing period ends
    PERIOD = "period"  # the value of a whole billing period


@dataclass(frozen=True, slots=True)
class WindowFacts:
    """What resolving needs to know of a usage window.

    `record_at`: the Unix second of its record where that is not for the mapping's rule to say.
    """

    meter: str
    subject: str
    aggregation: str
    window_start: datetime
    window_end: datetime
    subject_contradicts: bool = False
    group_by: tuple[tuple[str, str], ...] = ()
    source: WindowSource = WindowSource.WEBHOOK
    record_at: int | None = None


@dataclass(frozen=True, slots=True)
class Rules:
    """What the instance is set to. `queries`: OpenMeter's query API can be asked."""

    snapshot_max_age: timedelta
    late_policy: LatePolicy = LatePolicy.CARRY_FORWARD
    queries: bool = False


@dataclass(frozen=True, slots=True)
class Period:
    """A billing period of an item: after `start`, up to and including `end`."""

    start: datetime
    end: datetime

    def takes(self, at: datetime) -> bool:
        """Whether a record at this time belongs to it."""
        return self.start < at <= self.end


class Target(NamedTuple):
    """Where a window is booked. `timestamp` in Unix seconds; the period's start is exclusive.

    `closed_until`: the last second that Stripe takes nothing more for, where the window is beyond
    that: its record is carried or held.
    `slipped`: the span of the window that lies in the period before and is billed in this one.
    """

    subscription: str
    subscription_item: str
    period_start: datetime
    period_end: datetime
    timestamp: int
    scale: Fraction
    rounding: Rounding
    combination: Combination = Combination.SUM
    late_policy: LatePolicy = LatePolicy.CARRY_FORWARD
    increment: bool = False
    closed_until: int | None = None
    slipped: tuple[datetime, datetime] | None = None


@dataclass(frozen=True, slots=True)
class Parked:
    """Why a window cannot be booked now. `retry_at`: when it is worth another look by itself."""

    reason: ParkReason
    detail: str
    retry_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class NeedsSnapshot:
    """The subscription must be read from Stripe first."""

    subscription: str


@dataclass(frozen=True, slots=True)
class InParts:
    """The window straddles a period's boundary: its two parts are asked from OpenMeter."""

    boundary: datetime


@dataclass(frozen=True, slots=True)
class WholePeriod:
    """The window only says that the period's value has moved: that is asked from OpenMeter.

    `asked`: the part of the item's billing period in which the subscription pays for the subject.
    `target`: where the value is booked.
    """

    asked: Period
    group_filter: tuple[tuple[str, str], ...]
    target: Target


@dataclass(frozen=True, slots=True)
class Place:
    """The item that bills a window, and by which mapping.

    `paid`: the subject's mappings to the subscription, where a whole period is asked for; the
    window's comes first.
    """

    subscription: str
    item: SnapshotItem
    mapping: MeterMapping
    combination: Combination
    late_policy: LatePolicy
    increment: bool
    paid: tuple[SubjectMapping, ...] = ()


@dataclass(frozen=True, slots=True)
class Late:
    """The window's record, at `at`, lies before the item's current period."""

    place: Place
    at: datetime


Booking = Target | InParts | WholePeriod | Parked
Resolution = Booking | NeedsSnapshot | Late
