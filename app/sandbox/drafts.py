"""Objects that are about to be created, by the public API or by the control API."""

from pydantic import BaseModel, ConfigDict, Field

from app.sandbox.objects import (
    AggregateUsage,
    MissingPaymentMethod,
    SubscriptionStatus,
    UsageType,
)
from app.sandbox.periods import Interval

# The first second of 2100: far enough, and a period's end still is a date.
LATEST = 4_102_444_800
_ID = Field(None, min_length=1, max_length=255, description="Given by the sandbox when left out")
_METADATA: dict[str, str] = Field(default_factory=dict, examples=[{"meter": "ai_prompt_tokens"}])


class Draft(BaseModel):
    """What all drafts share."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class CustomerDraft(Draft):
    """A customer to be created."""

    id: str | None = _ID
    name: str | None = None
    email: str | None = None
    description: str | None = None
    metadata: dict[str, str] = _METADATA


class PriceDraft(Draft):
    """A recurring price to be created; metered and summed unless it says otherwise."""

    id: str | None = _ID
    product: str | None = Field(None, description="A product's id; any will do")
    currency: str = "usd"
    unit_amount: int | None = Field(1, ge=0)
    interval: Interval = Interval.MONTH
    interval_count: int = Field(1, ge=1, le=36)
    usage_type: UsageType = UsageType.METERED
    aggregate_usage: AggregateUsage = AggregateUsage.SUM
    meter: str | None = Field(None, description="A billing meter's id: no longer legacy")
    lookup_key: str | None = None
    transfer_lookup_key: bool = Field(
        default=False, description="Take the lookup key from the price that has it"
    )
    nickname: str | None = None
    active: bool = True
    metadata: dict[str, str] = _METADATA


class ItemDraft(Draft):
    """A subscription item to be created."""

    id: str | None = _ID
    price: str
    quantity: int | None = Field(None, ge=0, description="Of licensed prices only")
    usage_gte: int | None = Field(None, ge=1, description="The item's billing threshold")
    metadata: dict[str, str] = _METADATA


class PlanDraft(Draft):
    """A plan change: what takes the place of all items of a subscription."""

    items: list[ItemDraft] = Field(min_length=1)
    gone: bool = Field(
        default=False,
        description="Whether the old items answer 404 in place of 'no longer active'",
    )
    clear_usage: bool = Field(
        default=False, description="Whether the old items' usage of the open period is dropped"
    )
    reset_anchor: bool = Field(
        default=False,
        description="End the period now, with an invoice, and begin one. Another billing interval "
        "does so anyway",
    )


class SubscriptionDraft(Draft):
    """A subscription to be created. Times are Unix seconds."""

    id: str | None = _ID
    customer: str
    items: list[ItemDraft] = Field(min_length=1)
    start_date: int | None = Field(
        None,
        ge=0,
        le=LATEST,
        description="Now when left out. A past one backdates: the periods since are closed",
    )
    billing_cycle_anchor: int | None = Field(
        None, ge=0, le=LATEST, description="The start when left out"
    )
    trial_end: int | None = Field(None, ge=0, le=LATEST)
    status: SubscriptionStatus | None = Field(
        None, description="Trialing or active, by `trial_end`, when left out"
    )
    missing_payment_method: MissingPaymentMethod = Field(
        MissingPaymentMethod.CREATE_INVOICE, description="What the end of the trial leads to"
    )
    cancel_at: int | None = Field(None, ge=0, le=LATEST, description="When it ends")
    cancel_at_period_end: bool = False
    amount_gte: int | None = Field(None, ge=1, description="The subscription's billing threshold")
    reset_billing_cycle_anchor: bool = Field(
        default=False, description="Whether a threshold that is reached begins a whole new period"
    )
    metadata: dict[str, str] = _METADATA
