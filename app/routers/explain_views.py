"""The page of an explanation as the API and `meterbridge explain --json` show it."""

from datetime import date, datetime

from pydantic import BaseModel, Field

from app.ledger.explained import SubjectDay, Unsettled, Waiting
from app.ledger.explained_words import PeriodStatus, StripeLook, action_of
from app.ledger.explanation import Explanation, PeriodExplanation
from app.routers.explain_record_views import (
    CarryView,
    Exact,
    ExplainedRecordView,
    ExplainedWindowView,
    View,
)


class TotalsView(View):
    """What the item's period comes to: wanted = rounded + carried in - carried out."""

    exact: Exact | None = Field(description="The amounts added up; null where the price does not.")
    rounded: int | None
    carried_in: int
    carried_out: int
    wanted: int
    reported: int = Field(description="What stands at Stripe as far as its answers tell.")
    records: int
    in_doubt: int = Field(description="Records with an attempt whose outcome is not known.")


class StripeView(View):
    """What Stripe says now."""

    look: StripeLook
    note: str
    comparable: bool = Field(description="Whether `total` must equal the reported quantity.")
    total: int | None
    invoice: str | None


class UnsettledView(View):
    """Records that Stripe does not hold as they should be."""

    state: str
    reason: str | None
    records: int
    quantity: int = Field(description="Wanted minus reported.")
    action: str | None

    @classmethod
    def of(cls, found: Unsettled) -> "UnsettledView":
        """The view of a group of records."""
        return cls(
            state=found.state,
            reason=found.reason,
            records=found.records,
            quantity=found.quantity,
            action=action_of(found.state, found.reason),
        )


class WaitingView(View):
    """How many windows are not booked under a reason."""

    state: str
    reason: str | None
    windows: int
    certain: bool
    action: str | None

    @classmethod
    def of(cls, found: Waiting) -> "WaitingView":
        """The view of a group of windows."""
        return cls(
            state=found.state,
            reason=found.reason,
            windows=found.windows,
            certain=found.certain,
            action=action_of(found.state, found.reason),
        )


class ItemPeriodView(BaseModel):
    """One subscription item in one billing period."""

    sentence: str
    subscription: str
    subscription_item: str
    price: str | None = Field(description="The item's price as Stripe last told it.")
    lookup_key: str | None
    period_start: datetime
    period_end: datetime
    status: PeriodStatus
    closed_at: datetime | None
    combination: str | None = Field(examples=["sum"])
    rounding: str | None = Field(examples=["half_up"])
    late_policy: str | None = Field(examples=["carry_forward"])
    totals: TotalsView
    stripe: StripeView
    unsettled: list[UnsettledView]
    records: list[ExplainedRecordView]
    records_selected: int = Field(
        description="All of the period, or those with the subject's windows of the day."
    )
    next_after: int | None = Field(description="The `after` of the next page of records, if any.")
    carries: list[CarryView]
    carries_in_all: int
    waiting: list[ExplainedWindowView] = Field(
        description="Parked and pending windows that are, or may be, for this item and period."
    )
    waiting_counts: list[WaitingView]

    @classmethod
    def of(cls, explained: PeriodExplanation) -> "ItemPeriodView":
        """The view of an explained period."""
        period, head = explained.period, explained.period.head
        return cls(
            sentence=explained.sentence,
            subscription=head.subscription,
            subscription_item=head.subscription_item,
            price=head.price,
            lookup_key=head.lookup_key,
            period_start=head.period_start,
            period_end=head.period_end,
            status=explained.status,
            closed_at=head.closed_at,
            combination=head.combination,
            rounding=head.rounding,
            late_policy=head.late_policy,
            totals=TotalsView.model_validate(period.totals),
            stripe=StripeView.model_validate(explained.stripe),
            unsettled=[UnsettledView.of(found) for found in period.unsettled],
            records=[ExplainedRecordView.of(record) for record in period.records],
            records_selected=period.selected,
            next_after=period.next_after,
            carries=[CarryView.model_validate(carry) for carry in period.carries],
            carries_in_all=period.carries_in_all,
            waiting=[ExplainedWindowView.of(window) for window in period.waiting],
            waiting_counts=[WaitingView.of(count) for count in period.waiting_counts],
        )


class DayView(BaseModel):
    """The windows of a subject that end on a day (UTC; midnight ends the day before)."""

    subject: str
    day: date
    windows_in_all: int
    booked: int
    aside: list[ExplainedWindowView] = Field(description="Parked, pending and covered ones.")
    aside_counts: list[WaitingView]
    item_periods_in_all: int

    @classmethod
    def of(cls, found: SubjectDay) -> "DayView":
        """The view of a day."""
        return cls(
            subject=found.subject,
            day=found.day,
            windows_in_all=found.windows_in_all,
            booked=found.booked,
            aside=[ExplainedWindowView.of(window) for window in found.aside],
            aside_counts=[WaitingView.of(count) for count in found.aside_counts],
            item_periods_in_all=found.periods_in_all,
        )


class ExplanationView(BaseModel):
    """What stands behind an invoice line, in one page. Long lists say how much more there is."""

    sentence: str = Field(description="All of it in plain words: what is billed, what is missing.")
    made_at: datetime
    day: DayView | None
    item_periods: list[ItemPeriodView]

    @classmethod
    def of(cls, explanation: Explanation) -> "ExplanationView":
        """The view of an explanation."""
        return cls(
            sentence=explanation.sentence,
            made_at=explanation.made_at,
            day=DayView.of(explanation.day) if explanation.day else None,
            item_periods=[ItemPeriodView.of(period) for period in explanation.periods],
        )
