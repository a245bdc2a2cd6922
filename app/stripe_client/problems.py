"""The vocabulary of Stripe's errors: kinds, categories, and a classified answer. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType


class ProblemCategory(StrEnum):
    """What a problem is about, and so who must act."""

    RECORD = "record"  # this record cannot stand as it was sent; its neighbours can
    RESOLVE = "resolve"  # what we knew of the subscription is out of date: read it again, once
    LINE = "line"  # no record will pass until an operator changes key, account or version
    PACE = "pace"  # too fast for the account or endpoint: the whole line slows down
    TRANSIENT = "transient"  # the same request with the same key may pass later
    UNFORESEEN = "unforeseen"  # nobody foresaw it: hold and show


class ProblemKind(StrEnum):
    """The stable name of a known error."""

    PERIOD_CLOSED = "period_closed"
    TIMESTAMP_IN_FUTURE = "timestamp_in_future"
    TIMESTAMP_REFUSED = "timestamp_refused"
    PRICE_HAS_BILLING_METER = "price_has_billing_meter"
    ITEM_NO_LONGER_ACTIVE = "item_no_longer_active"
    INVALID_INTEGER = "invalid_integer"
    THRESHOLDS_INCREMENT_ONLY = "thresholds_increment_only"
    RESOURCE_MISSING = "resource_missing"
    PERMISSION_MISSING = "permission_missing"
    KEY_REFUSED = "key_refused"
    ACCOUNT_REFUSED = "account_refused"
    VERSION_UNSUPPORTED = "version_unsupported"
    IDEMPOTENCY_MISMATCH = "idempotency_mismatch"
    IDEMPOTENCY_IN_USE = "idempotency_in_use"
    CONFLICT = "conflict"
    LOCK_TIMEOUT = "lock_timeout"
    RATE_LIMITED = "rate_limited"
    SERVER_ERROR = "server_error"
    UNFORESEEN = "unforeseen"


class RateLimitReason(StrEnum):
    """Which of Stripe's limiters spoke (`Stripe-Rate-Limited-Reason`)."""

    GLOBAL_RATE = "global-rate"
    GLOBAL_CONCURRENCY = "global-concurrency"
    ENDPOINT_RATE = "endpoint-rate"
    ENDPOINT_CONCURRENCY = "endpoint-concurrency"
    RESOURCE_SPECIFIC = "resource-specific"
    UNKNOWN = "unknown"  # no header, or a value that is not in Stripe's list


CATEGORIES: Mapping[ProblemKind, ProblemCategory] = MappingProxyType(
    {
        ProblemKind.PERIOD_CLOSED: ProblemCategory.RECORD,
        ProblemKind.TIMESTAMP_IN_FUTURE: ProblemCategory.RECORD,
        ProblemKind.TIMESTAMP_REFUSED: ProblemCategory.RECORD,
        ProblemKind.PRICE_HAS_BILLING_METER: ProblemCategory.RESOLVE,
        ProblemKind.ITEM_NO_LONGER_ACTIVE: ProblemCategory.RESOLVE,
        ProblemKind.INVALID_INTEGER: ProblemCategory.RECORD,
        ProblemKind.THRESHOLDS_INCREMENT_ONLY: ProblemCategory.RESOLVE,
        ProblemKind.RESOURCE_MISSING: ProblemCategory.RESOLVE,
        ProblemKind.PERMISSION_MISSING: ProblemCategory.LINE,
        ProblemKind.KEY_REFUSED: ProblemCategory.LINE,
        ProblemKind.ACCOUNT_REFUSED: ProblemCategory.LINE,
        ProblemKind.VERSION_UNSUPPORTED: ProblemCategory.LINE,
        ProblemKind.IDEMPOTENCY_MISMATCH: ProblemCategory.RECORD,
        ProblemKind.IDEMPOTENCY_IN_USE: ProblemCategory.TRANSIENT,
        ProblemKind.CONFLICT: ProblemCategory.TRANSIENT,
        ProblemKind.LOCK_TIMEOUT: ProblemCategory.TRANSIENT,
        ProblemKind.RATE_LIMITED: ProblemCategory.PACE,
        ProblemKind.SERVER_ERROR: ProblemCategory.TRANSIENT,
        ProblemKind.UNFORESEEN: ProblemCategory.UNFORESEEN,
    }
)


@dataclass(frozen=True, slots=True)
class ErrorAnswer:
    """The parts of an error answer that the table looks at; `None` is "not there"."""

    status: int
    type: str | None = None
    code: str | None = None
    param: str | None = None
    message: str | None = None
    rate_limited_reason: str | None = None


@dataclass(frozen=True, slots=True)
class StripeProblem:
    """A classified error answer. `rate_limited_reason` is set for `RATE_LIMITED` only."""

    kind: ProblemKind
    category: ProblemCategory
    rate_limited_reason: RateLimitReason | None = None
