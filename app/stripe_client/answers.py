"""What Stripe answers, as frozen values. Times are Unix seconds, as Stripe gives them.

Each answer carries its envelope in `meta`; values nested in one share the envelope of the whole.
The envelope takes no part in equality: two answers are equal when Stripe said the same. Pure.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from app.stripe_client.meta import AnswerMeta

Action = Literal["set", "increment"]


@dataclass(frozen=True, slots=True)
class UsageRecordAnswer:
    """A usage record as Stripe wrote it down. `quantity` is a whole number."""

    id: str
    quantity: int
    subscription_item: str
    timestamp: int
    livemode: bool
    meta: AnswerMeta = field(default=AnswerMeta(), compare=False)


@dataclass(frozen=True, slots=True)
class Price:
    """A price. `usage_type`, `aggregate_usage`, `meter` and `interval` are those of `recurring`."""

    id: str
    active: bool
    currency: str
    lookup_key: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    usage_type: str | None = None
    aggregate_usage: str | None = None
    meter: str | None = None
    interval: str | None = None
    interval_count: int | None = None
    meta: AnswerMeta = field(default=AnswerMeta(), compare=False)

    @property
    def takes_usage_records(self) -> bool:
        """Metered, and not by a billing meter: the only prices that usage records are for."""
        return self.usage_type == "metered" and self.meter is None


@dataclass(frozen=True, slots=True)
class SubscriptionItem:
    """An item. The period is the item's own, else its subscription's, else `None`."""

    id: str
    price: Price
    quantity: int | None = None
    billing_thresholds: bool = False
    deleted: bool = False
    current_period_start: int | None = None
    current_period_end: int | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    meta: AnswerMeta = field(default=AnswerMeta(), compare=False)


@dataclass(frozen=True, slots=True)
class Subscription:
    """A subscription with all its items, however many pages they came on.

    `billing_thresholds`: whether any stand on the subscription itself. `schedule`: the id of the
    schedule that governs it. `pause_collection`: whether its invoices are not collected for now;
    its periods go on. `cancel_at`: when it ends without a further period, by an agreed date or,
    where `cancel_at_period_end` is true, at the end of the current period. `start_date`: when it
    began, also where that was backdated.
    """

    id: str
    customer: str
    status: str
    livemode: bool
    current_period_start: int | None
    current_period_end: int | None
    items: tuple[SubscriptionItem, ...]
    cancel_at: int | None = None
    cancel_at_period_end: bool = False
    canceled_at: int | None = None
    ended_at: int | None = None
    start_date: int | None = None
    trial_end: int | None = None
    pause_collection: bool = False
    billing_thresholds: bool = False
    schedule: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    meta: AnswerMeta = field(default=AnswerMeta(), compare=False)


@dataclass(frozen=True, slots=True)
class UsageRecordSummary:
    """The usage of one period: after `period_start` up to and including `period_end`.

    `invoice` is `None` while the period is open; either bound can be `None`.
    """

    id: str
    subscription_item: str
    invoice: str | None
    period_start: int | None
    period_end: int | None
    total_usage: int
    livemode: bool
    meta: AnswerMeta = field(default=AnswerMeta(), compare=False)


@dataclass(frozen=True, slots=True)
class Customer:
    """A customer, without personal data. Of a deleted one Stripe only tells the id."""

    id: str
    deleted: bool = False
    livemode: bool | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    meta: AnswerMeta = field(default=AnswerMeta(), compare=False)


@dataclass(frozen=True, slots=True)
class Probe:
    """That key, account and version work. `livemode` is `None` in an account without data."""

    livemode: bool | None
    meta: AnswerMeta = field(default=AnswerMeta(), compare=False)
