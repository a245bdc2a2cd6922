"""What the ledger holds, as the API shows it."""

from datetime import datetime
from decimal import Decimal

from pydantic import BaseModel, Field


class ReasonCount(BaseModel):
    """How many wait under a reason, and what releases them."""

    reason: str = Field(examples=["no_subject_mapping"])
    count: int
    action: str = Field(examples=["Apply a mapping for this subject that is valid at that time."])


class DeliveryCounts(BaseModel):
    """Deliveries by state."""

    received: int = Field(description="Accepted, not yet booked.")
    booked: int
    rejected: int = Field(description="Answered 422, kept for a resend.")
    failed: int = Field(description="Could not be booked; see the log, then release.")


class WindowCounts(BaseModel):
    """Usage windows by state."""

    pending: int = Field(description="To be booked, some after a read from Stripe.")
    booked: int
    parked: int
    covered: int = Field(description="Their parts, or the whole period's value, count instead.")


class RecordCounts(BaseModel):
    """Usage records by state."""

    due: int = Field(description="Wanted and reported differ: to be sent.")
    reported: int
    late: int = Field(description="Their period is closed: to be carried, or held.")
    held: int


class LineView(BaseModel):
    """Whether anything may be sent."""

    stopped: bool
    reason: str | None
    detail: str | None
    since: datetime | None
    action: str | None


class SummaryView(BaseModel):
    """The whole way from delivery to Stripe, counted."""

    drained: bool = Field(description="Nothing is left that the program could do by itself.")
    deliveries: DeliveryCounts
    windows: WindowCounts
    parked: list[ReasonCount]
    records: RecordCounts
    held: list[ReasonCount]
    oldest_unsent: datetime | None
    line: LineView
    received: dict[str, int] = Field(
        description="Answers of this process's webhook endpoint since it started.",
        examples=[{"accepted": 12, "duplicate": 1}],
    )


class WindowView(BaseModel):
    """A usage window: one fact, and what became of it."""

    id: int
    meter: str
    subject: str
    group_by: dict[str, str]
    window_start: datetime
    window_end: datetime
    aggregation: str = Field(examples=["SUM"])
    value: Decimal
    source: str = Field(
        description="`webhook`, or from OpenMeter's API: a `part` of a window in two billing "
        "periods, a `flush` before a period's end, a whole `period`.",
        examples=["webhook"],
    )
    state: str
    reason: str | None
    detail: str | None
    action: str | None
    svix_id: str
    revision: int
    usage_record_id: int | None
    slipped_from: datetime | None = Field(
        description="With `slipped_to`: the span billed in another period than its own."
    )
    slipped_to: datetime | None


class RecordView(BaseModel):
    """A usage record: what must stand at Stripe, and what does."""

    id: int
    subscription: str
    subscription_item: str
    timestamp: datetime
    wanted_quantity: int
    reported_quantity: int
    state: str
    reason: str | None
    detail: str | None
    action: str | None
    due_at: datetime | None
    revision: int
    failures: int
    in_doubt: bool = Field(
        description="An attempt whose outcome Stripe did not tell may have counted: until it is "
        "settled, Stripe may hold something else than `reported_quantity`."
    )


class WindowPage(BaseModel):
    """A page of windows; `next_after` is null on the last."""

    data: list[WindowView]
    next_after: int | None


class RecordPage(BaseModel):
    """A page of records; `next_after` is null on the last."""

    data: list[RecordView]
    next_after: int | None
