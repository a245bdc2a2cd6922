"""Records of an explanation, with their windows, attempts and carries, as the API shows them."""

from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from app.ledger.explained import ExplainedRecord, ExplainedWindow
from app.ledger.explained_words import SOURCES, action_of
from app.mapping.units import exact_text

Exact = Annotated[
    str,
    BeforeValidator(lambda v: exact_text(v) if isinstance(v, Fraction) else v),
    WithJsonSchema({"type": "string", "examples": ["1234.5", "37/3"]}),
]
At = Annotated[
    datetime, BeforeValidator(lambda v: datetime.fromtimestamp(v, UTC) if type(v) is int else v)
]


class View(BaseModel):
    """A view whose members are those of a noun."""

    model_config = ConfigDict(from_attributes=True)


class RevisionView(View):
    """A revision of a window that does not stand (any more)."""

    value: Decimal
    aggregation: str
    source: str
    svix_id: str
    message_at: datetime
    verdict: str = Field(
        description="`superseded` by a newer one, or `older` than what was known when it came."
    )
    kept_at: datetime


class WholeWindowView(View):
    """The window that a part is of."""

    id: int
    window_start: datetime
    window_end: datetime
    value: Decimal
    svix_id: str


class ExplainedWindowView(View):
    """A usage window: one fact, how much of it counts, and who told it."""

    id: int
    meter: str
    subject: str
    group_by: dict[str, str]
    window_start: datetime
    window_end: datetime
    aggregation: str = Field(examples=["SUM"])
    value: Decimal = Field(description="As OpenMeter told it.")
    scale: Exact | None = Field(
        description="Units per value, of the price it was booked on.", examples=["1/1000"]
    )
    amount: Exact = Field(description="What of it counts in its record: value x scale, exact.")
    source: str = Field(examples=["webhook"])
    source_in_words: str = Field(examples=[SOURCES["webhook"]])
    svix_id: str = Field(description="The delivery, or, from OpenMeter's API, a name made for it.")
    message_at: datetime
    revision: int = Field(description="Counts the changes of its value, from 1.")
    revisions: list[RevisionView] = Field(description="Others than the one that stands, by age.")
    revisions_in_all: int
    state: str
    reason: str | None
    detail: str | None
    action: str | None = Field(description="What is to be done where it is not booked.")
    slipped_from: datetime | None = Field(
        description="With `slipped_to`: the span billed in another period than its own."
    )
    slipped_to: datetime | None
    part_of: WholeWindowView | None
    usage_record_id: int | None
    certain: bool = Field(description="False: it waits, and may be for another item.")

    @classmethod
    def of(cls, window: ExplainedWindow) -> "ExplainedWindowView":
        """The view of a window."""
        return cls(
            **{
                **{name: getattr(window, name) for name in _fields(cls, window)},
                "scale": None if window.scale is None else str(window.scale),
                "source_in_words": SOURCES.get(window.source, window.source),
                "action": action_of(window.state, window.reason),
            }
        )


class AttemptView(View):
    """One POST of a usage record, and what Stripe said."""

    idempotency_key: str
    action: str = Field(examples=["set"])
    quantity: int
    started_at: datetime
    finished_at: datetime
    outcome: str = Field(description="`succeeded`, or what was decided.", examples=["succeeded"])
    problem: str | None
    http_status: int | None
    message: str | None
    request_id: str | None = Field(description="Stripe's, for its dashboard and support.")
    replayed: bool = Field(description="Stripe repeated the answer to an earlier attempt.")


class ExplainedRecordView(View):
    """A usage record: what must stand at Stripe at a time, what does, and why."""

    id: int
    timestamp: At
    wanted_quantity: int
    reported_quantity: int
    carried_quantity: int = Field(
        description="Part of the wanted quantity: carried here, or, below zero, away from here."
    )
    revision: int
    svix_id: str = Field(description="The delivery behind its last change.")
    state: str
    reason: str | None
    detail: str | None
    action: str | None
    increment: bool
    in_doubt: bool
    due_at: datetime | None
    windows: list[ExplainedWindowView]
    windows_in_all: int
    attempts: list[AttemptView] = Field(description="By age; the newest where there are many.")
    attempts_in_all: int

    @classmethod
    def of(cls, record: ExplainedRecord) -> "ExplainedRecordView":
        """The view of a record."""
        return cls(
            **{
                **{name: getattr(record, name) for name in _fields(cls, record)},
                "windows": [ExplainedWindowView.of(window) for window in record.windows],
                "action": action_of(record.state, record.reason),
            }
        )


class CarryEndView(View):
    """The record that a carry left or reached, and its billing period."""

    usage_record_id: int
    subscription_item: str
    timestamp: At
    period_start: datetime
    period_end: datetime


class CarryView(View):
    """Units that went from a closed period's record to another; below zero: that came back."""

    quantity: int
    carried_at: datetime
    svix_id: str = Field(description="The delivery behind it.")
    origin: CarryEndView
    destination: CarryEndView | None = Field(
        description="Null: it was credited to the customer by hand."
    )


def _fields(view: type[BaseModel], of: object) -> list[str]:
    return [name for name in view.model_fields if hasattr(of, name)]
