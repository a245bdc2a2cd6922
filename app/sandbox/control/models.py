"""What the control API takes and gives."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.sandbox.drafts import LATEST
from app.sandbox.objects import PauseBehavior, SubscriptionStatus


class Input(BaseModel):
    """What all inputs share."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Cancellation(Input):
    """How a subscription ends: now, unless one of the two says later."""

    at_period_end: bool = False
    at: int | None = Field(None, ge=0, le=LATEST, description="A time ahead, Unix seconds")
    invoice_now: bool = Field(
        default=False, description="Whether an end now bills what is not yet invoiced"
    )

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if [self.at_period_end, self.at is not None, self.invoice_now].count(True) > 1:
            raise ValueError("at_period_end, at and invoice_now exclude each other")
        return self


class SubscriptionChange(Input):
    """What is to be changed on a subscription; what is left out stays."""

    status: SubscriptionStatus | None = None
    metadata: dict[str, str] | None = Field(None, description="All of it, in place of the old")


class CustomerChange(Input):
    """What is to be changed on a customer."""

    metadata: dict[str, str] = Field(description="All of it, in place of the old")


class SubscriptionThreshold(Input):
    """The subscription's billing threshold; null takes it away."""

    amount_gte: int | None = Field(ge=1)
    reset_billing_cycle_anchor: bool = Field(
        default=False, description="Whether a threshold that is reached begins a whole new period"
    )


class ReachedThreshold(Input):
    """What follows a threshold that is reached."""

    reset_billing_cycle_anchor: bool | None = Field(
        None, description="As the subscription's thresholds say, when left out"
    )


class TrialEnd(Input):
    """Where the end of a trial is moved."""

    at: int | None = Field(None, ge=0, le=LATEST, description="Unix seconds ahead; null is now")


class Pause(Input):
    """How the collection of invoices is paused."""

    behavior: PauseBehavior = PauseBehavior.VOID
    resumes_at: int | None = Field(None, ge=0, le=LATEST, description="Unix seconds")


class Resumption(Input):
    """How a subscription in the status `paused` goes on."""

    reset_anchor: bool = Field(default=True, description="Whether a period begins now")


class PriceSwitch(Input):
    """Another price on the same item."""

    price: str


class ItemEnd(Input):
    """How an item comes off its subscription."""

    clear_usage: bool = Field(
        default=False, description="Whether its usage of the open period is dropped"
    )


class ItemThreshold(Input):
    """The item's billing threshold; null takes it away."""

    usage_gte: int | None = Field(ge=1)


class Replacement(Input):
    """A plan change: what takes the item's place."""

    id: str | None = None
    price: str | None = Field(None, description="The same price when left out")
    gone: bool = Field(
        default=False,
        description="Whether the old item answers 404 in place of 'no longer active'",
    )
    clear_usage: bool = Field(
        default=False, description="Whether the old item's usage of the open period is dropped"
    )


class PriceMeter(Input):
    """The billing meter of a price; null makes it legacy again."""

    meter: str | None


class ApiKey(Input):
    """An API key and what it may do."""

    key: str = Field(min_length=1)
    permissions: frozenset[str] | None = Field(
        None,
        description="For example rak_subscription_read; null is everything, empty is nothing",
    )


class RevokedKey(Input):
    """An API key to be taken away."""

    key: str


class ClockSetting(Input):
    """Where the clock is put."""

    at: int | None = Field(None, ge=0, le=LATEST, description="Unix seconds; now when left out")
    frozen: bool = False


class ClockStep(Input):
    """How far the clock is moved."""

    seconds: int = Field(ge=1, le=LATEST)


class ClockState(BaseModel):
    """What the clock says."""

    now: int = Field(description="Unix seconds")
    frozen: bool


class SettingsChange(Input):
    """The settings to be changed; those left out stay."""

    limit_per_second: int | None = None
    global_limit_per_second: int | None = None
    grace_seconds: int | None = None
    future_tolerance_seconds: int | None = None
    write_latency_ms: int | None = None
    read_latency_ms: int | None = None
    store_refusals: bool | None = None
    ledger_keeps: int | None = None
    default_version: str | None = None
    connected_accounts: frozenset[str] | None = None


class LedgerEntry(BaseModel):
    """One executed usage-record call."""

    number: int = Field(description="Counted from one, in order of execution")
    subscription_item: str
    subscription: str
    timestamp: int
    period_start: int = Field(description="Of the billing period that took it")
    quantity: int
    action: Literal["set", "increment"]
    idempotency_key: str | None
    request_id: str
    at: int = Field(description="When it was executed, by the sandbox's clock")


class LedgerPage(BaseModel):
    """Executed usage-record calls, in order. Replays are not executed and not here."""

    calls: list[LedgerEntry]
    total: int = Field(description="Of all executed calls, whatever was asked for")


class PeriodTotal(BaseModel):
    """What an item holds in one billing period: after `start`, up to and including `end`."""

    start: int
    end: int
    closed: bool = Field(description="Whether it is over, with an invoice or without")
    invoice: str | None = Field(description="That it was billed with; null: open, or dropped")
    total_usage: int
    records: dict[int, int] = Field(description="Timestamp -> quantity")


class ItemTotals(BaseModel):
    """What an item holds, newest period first."""

    subscription_item: str
    subscription: str
    price: str
    state: str
    periods: list[PeriodTotal]


class Totals(BaseModel):
    """Every item that ever was, ended and vanished ones included."""

    items: list[ItemTotals]


class OperationCount(BaseModel):
    """How often an operation was called."""

    total: int
    by_status: dict[str, int]
    replayed: int
    cut: int = Field(description="Connections that the sandbox ended without a whole answer")


class RequestCounts(BaseModel):
    """Requests since the start or the last reset, refused ones included."""

    operations: dict[str, OperationCount]
