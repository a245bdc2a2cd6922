"""What a Stripe account holds, as far as usage records go. All times are Unix seconds."""

from dataclasses import dataclass, field
from enum import StrEnum

from app.sandbox.periods import Cycle, Interval


class UsageType(StrEnum):
    """How a price counts its quantity."""

    METERED = "metered"
    LICENSED = "licensed"


class AggregateUsage(StrEnum):
    """How a metered price makes one total of a period's records."""

    SUM = "sum"
    MAX = "max"
    LAST_DURING_PERIOD = "last_during_period"
    LAST_EVER = "last_ever"


class SubscriptionStatus(StrEnum):
    """Stripe's subscription states."""

    INCOMPLETE = "incomplete"
    INCOMPLETE_EXPIRED = "incomplete_expired"
    TRIALING = "trialing"
    ACTIVE = "active"
    PAST_DUE = "past_due"
    UNPAID = "unpaid"
    PAUSED = "paused"
    CANCELED = "canceled"


class MissingPaymentMethod(StrEnum):
    """What becomes of a subscription whose trial ends without a payment method."""

    CREATE_INVOICE = "create_invoice"
    CANCEL = "cancel"
    PAUSE = "pause"


class PauseBehavior(StrEnum):
    """What becomes of the invoices while collection is paused."""

    KEEP_AS_DRAFT = "keep_as_draft"
    MARK_UNCOLLECTIBLE = "mark_uncollectible"
    VOID = "void"


@dataclass(frozen=True, slots=True)
class PauseCollection:
    """Invoices are made and not collected; periods go on, and usage is taken."""

    behavior: PauseBehavior
    resumes_at: int | None = None


ENDED = frozenset({SubscriptionStatus.CANCELED, SubscriptionStatus.INCOMPLETE_EXPIRED})


@dataclass(slots=True)
class Customer:
    """Who is billed."""

    id: str
    created: int
    name: str | None = None
    email: str | None = None
    description: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    deleted: bool = False


@dataclass(slots=True)
class Recurring:
    """The recurring part of a price. A `meter` takes it off the legacy billing system."""

    interval: Interval = Interval.MONTH
    interval_count: int = 1
    usage_type: UsageType = UsageType.METERED
    aggregate_usage: AggregateUsage | None = AggregateUsage.SUM
    meter: str | None = None


@dataclass(slots=True)
class Price:
    """What one unit costs, and how units are counted."""

    id: str
    created: int
    product: str
    recurring: Recurring
    currency: str = "usd"
    unit_amount: int | None = None
    lookup_key: str | None = None
    nickname: str | None = None
    active: bool = True
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class BillingPeriod:
    """One period of a subscription: after `start`, up to and including `end`.

    `invoice` is there once the period is closed; a period cut short by an immediate
    cancellation has none, because what it held was dropped, and neither has a paused one.
    """

    start: int
    end: int
    invoice: str | None = None


class ItemState(StrEnum):
    """Whether an item can still take usage."""

    LIVE = "live"
    ENDED = "ended"  # off the subscription; usage is refused as "no longer active"
    GONE = "gone"  # no trace in the API: 404 `resource_missing`


@dataclass(slots=True)
class SubscriptionItem:
    """One price on a subscription, with its usage: period number -> timestamp -> quantity."""

    id: str
    created: int
    subscription: str
    price: str
    quantity: int | None = None
    usage_gte: int | None = None
    state: ItemState = ItemState.LIVE
    ended_at: int | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    usage: dict[int, dict[int, int]] = field(default_factory=dict)


@dataclass(slots=True)
class Subscription:
    """A customer's contract. The last of `periods` is the current one."""

    id: str
    created: int
    customer: str
    cycle: Cycle
    periods: list[BillingPeriod]
    currency: str = "usd"
    status: SubscriptionStatus = SubscriptionStatus.ACTIVE
    items: list[SubscriptionItem] = field(default_factory=list)
    amount_gte: int | None = None
    reset_billing_cycle_anchor: bool = False  # by a threshold that is reached
    cancel_at: int | None = None
    cancel_at_period_end: bool = False
    canceled_at: int | None = None
    ended_at: int | None = None
    trial_start: int | None = None
    trial_end: int | None = None
    missing_payment_method: MissingPaymentMethod = MissingPaymentMethod.CREATE_INVOICE
    pause: PauseCollection | None = None
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def current(self) -> BillingPeriod:
        """The current period, or the last one of an ended subscription."""
        return self.periods[-1]

    @property
    def next_change(self) -> int:
        """When the clock changes something next, unless the subscription has ended."""
        at = self.periods[-1].end
        if self.cancel_at is not None:
            at = min(at, self.cancel_at)
        if self.pause is not None and self.pause.resumes_at is not None:
            at = min(at, self.pause.resumes_at)
        return at

    @property
    def has_thresholds(self) -> bool:
        """Whether any stand on the subscription itself."""
        return self.amount_gte is not None or self.reset_billing_cycle_anchor

    @property
    def ended(self) -> bool:
        """Whether no more usage is taken."""
        return self.status in ENDED

    @property
    def live_items(self) -> list[SubscriptionItem]:
        """The items that the API still lists."""
        return [item for item in self.items if item.state is ItemState.LIVE]
