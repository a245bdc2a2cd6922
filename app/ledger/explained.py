"""The nouns of an explanation: what stands behind an invoice line, as frozen values. Pure."""

from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from fractions import Fraction


@dataclass(frozen=True, slots=True)
class ExplainedRevision:
    """A revision of a window that does not stand (any more). `verdict`: superseded or older."""

    value: Decimal
    aggregation: str
    source: str
    svix_id: str
    message_at: datetime
    verdict: str
    kept_at: datetime


@dataclass(frozen=True, slots=True)
class WholeWindow:
    """The window that a part is of."""

    id: int
    window_start: datetime
    window_end: datetime
    value: Decimal
    svix_id: str


@dataclass(frozen=True, slots=True)
class ExplainedWindow:
    """A usage window: one fact, how much of it counts, and who told it.

    `amount` is what of it is counted in its record: value x scale. `slipped_from`, `slipped_to`:
    the span that is billed in another period than its own. `revision` counts from 1;
    `revisions_in_all` is how many others are kept, of which `revisions` has the newest.
    `certain` is false where nobody has said yet whether a window that waits is for this item.
    """

    id: int
    meter: str
    subject: str
    group_by: dict[str, str]
    window_start: datetime
    window_end: datetime
    aggregation: str
    value: Decimal
    scale: Fraction | None
    amount: Fraction
    source: str
    svix_id: str
    message_at: datetime
    revision: int
    state: str
    reason: str | None
    detail: str | None
    slipped_from: datetime | None
    slipped_to: datetime | None
    usage_record_id: int | None
    part_of: WholeWindow | None
    revisions: tuple[ExplainedRevision, ...] = ()
    revisions_in_all: int = 0
    certain: bool = True


@dataclass(frozen=True, slots=True)
class ExplainedAttempt:
    """One POST of a record. `outcome`: succeeded, or what was decided on the answer."""

    idempotency_key: str
    action: str
    quantity: int
    started_at: datetime
    finished_at: datetime
    outcome: str
    problem: str | None
    http_status: int | None
    message: str | None
    request_id: str | None
    replayed: bool


@dataclass(frozen=True, slots=True)
class ExplainedRecord:
    """A usage record with its attempts and windows; the newest, and how many there are in all.

    `timestamp` in Unix seconds. `carried_quantity`: above zero what was carried here, below zero
    what was carried away; it is part of the wanted quantity.
    """

    id: int
    timestamp: int
    wanted_quantity: int
    reported_quantity: int
    carried_quantity: int
    revision: int
    svix_id: str
    state: str
    reason: str | None
    detail: str | None
    increment: bool
    in_doubt: bool
    due_at: datetime | None
    windows_in_all: int
    attempts_in_all: int
    windows: tuple[ExplainedWindow, ...] = ()
    attempts: tuple[ExplainedAttempt, ...] = ()


@dataclass(frozen=True, slots=True)
class CarryEnd:
    """The record that a carry left or reached, and the period it stands in."""

    usage_record_id: int
    subscription_item: str
    timestamp: int
    period_start: datetime
    period_end: datetime


@dataclass(frozen=True, slots=True)
class ExplainedCarry:
    """Units that went from a closed period's record to another; below zero: that came back.

    Without a destination they were credited to the customer by hand.
    """

    quantity: int
    carried_at: datetime
    svix_id: str
    origin: CarryEnd
    destination: CarryEnd | None


@dataclass(frozen=True, slots=True)
class PeriodTotals:
    """What an item's period comes to.

    `exact`, `rounded` only where records are added up. `wanted` and `reported` as the price
    combines records: their sum, the largest, or the newest one's.
    """

    exact: Fraction | None
    rounded: int | None
    carried_in: int
    carried_out: int
    wanted: int
    reported: int
    records: int
    in_doubt: int


@dataclass(frozen=True, slots=True)
class Unsettled:
    """Records that Stripe does not hold as they should be, by state, reason and direction.

    `quantity`: wanted minus reported, added up.
    """

    state: str
    reason: str | None
    records: int
    quantity: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """How many windows wait, by state and reason, and by whether they belong here for certain."""

    state: str
    reason: str | None
    windows: int
    certain: bool = True


@dataclass(frozen=True, slots=True)
class PeriodHead:
    """One item in one billing period; bounds as booking knows them.

    `id` is None, and so are the rules, where nothing was ever booked. `price`, `lookup_key`: what
    the item bills by now, as far as Stripe was asked. `pruned_at`: when its windows and records
    began to be deleted as too old; `pruned_reported` is what they had reported in all.
    """

    id: int | None
    subscription: str
    subscription_item: str
    period_start: datetime
    period_end: datetime
    combination: str | None = None
    rounding: str | None = None
    late_policy: str | None = None
    closed_at: datetime | None = None
    exact: Fraction = Fraction(0)
    rounded: int = 0
    price: str | None = None
    lookup_key: str | None = None
    pruned_at: datetime | None = None
    pruned_reported: int = 0


@dataclass(frozen=True, slots=True)
class ExplainedPeriod:
    """Everything the ledger has to say about one item in one billing period.

    `next_after`: the timestamp behind which further records are to be asked for. `selected`: how
    many records were asked for, all of the period or those of a subject's day.
    """

    head: PeriodHead
    totals: PeriodTotals
    unsettled: tuple[Unsettled, ...]
    records: tuple[ExplainedRecord, ...]
    next_after: int | None
    selected: int
    carries: tuple[ExplainedCarry, ...]
    carries_in_all: int
    waiting: tuple[ExplainedWindow, ...]
    waiting_counts: tuple[Waiting, ...]

    @property
    def waiting_in_all(self) -> int:
        """How many windows wait, shown or not."""
        return sum(count.windows for count in self.waiting_counts)


@dataclass(frozen=True, slots=True)
class SubjectDay:
    """The windows of a subject that end on a day (UTC; midnight ends the day before).

    `aside`: those that are not booked, of which `aside_counts` counts all.
    """

    subject: str
    day: date
    windows_in_all: int
    booked: int
    aside: tuple[ExplainedWindow, ...]
    aside_counts: tuple[Waiting, ...]
    periods_in_all: int
