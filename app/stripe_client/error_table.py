"""The closed table of Stripe's known errors.

One frozen row per known error. A row matches on structured fields first (status, type, code,
param, the rate limiter's reason) and only then on the fixed part of the message, because most of
the errors of usage records come without a `code`. What no row knows is `UNFORESEEN`: neither
retried nor taken for success. Pure: no I/O is imported here.
"""

from collections.abc import Container
from dataclasses import dataclass

from app.stripe_client.problems import (
    CATEGORIES,
    ErrorAnswer,
    ProblemKind,
    RateLimitReason,
    StripeProblem,
)


@dataclass(frozen=True, slots=True)
class Row:
    """One known error. A condition that is `None` (or no phrases) does not look.

    `phrases`: one of them must stand in the message, whatever the case of its letters.
    """

    kind: ProblemKind
    statuses: Container[int]
    types: Container[str | None] | None = None
    codes: Container[str | None] | None = None
    params: Container[str | None] | None = None
    reasons: Container[str | None] | None = None
    phrases: tuple[str, ...] = ()

    def matches(self, answer: ErrorAnswer) -> bool:
        """Whether the answer is this error."""
        message = (answer.message or "").casefold()
        return (
            answer.status in self.statuses
            and (self.types is None or answer.type in self.types)
            and (self.codes is None or answer.code in self.codes)
            and (self.params is None or answer.param in self.params)
            and (self.reasons is None or answer.rate_limited_reason in self.reasons)
            and (not self.phrases or any(part.casefold() in message for part in self.phrases))
        )


_REQUEST = ("invalid_request_error",)
_REASONS = tuple(reason.value for reason in RateLimitReason if reason != RateLimitReason.UNKNOWN)
_NO_CODE = (None,)

ROWS: tuple[Row, ...] = (
    Row(
        ProblemKind.PERIOD_CLOSED,
        statuses=(400,),
        types=_REQUEST,
        params=("timestamp", None),
        phrases=("timestamps must be after the subscription's last invoice period",),
    ),
    Row(
        # Documented as refused, its wording is not: any text about the future at `timestamp`.
        ProblemKind.TIMESTAMP_IN_FUTURE,
        statuses=(400,),
        types=_REQUEST,
        params=("timestamp",),
        phrases=("future",),
    ),
    Row(
        # Said of writing a record and of listing summaries, with another advice at the end.
        ProblemKind.PRICE_HAS_BILLING_METER,
        statuses=(400,),
        types=_REQUEST,
        phrases=("is not on the legacy metered billing system",),
    ),
    Row(
        ProblemKind.ITEM_NO_LONGER_ACTIVE,
        statuses=(400,),
        types=_REQUEST,
        phrases=(
            "because the subscription item is no longer active",
            "because the subscription has been canceled",
        ),
    ),
    Row(ProblemKind.INVALID_INTEGER, statuses=(400,), codes=("parameter_invalid_integer",)),
    Row(
        ProblemKind.INVALID_INTEGER,
        statuses=(400,),
        types=_REQUEST,
        codes=_NO_CODE,
        phrases=("invalid integer",),
    ),
    Row(
        # Documented as refused, its wording is not: any text that names the thresholds.
        ProblemKind.THRESHOLDS_INCREMENT_ONLY,
        statuses=(400,),
        types=_REQUEST,
        phrases=("billing thresholds", "billing_thresholds"),
    ),
    # 404 for an id in the path, 400 for one among the parameters (`customer` of a list).
    Row(ProblemKind.RESOURCE_MISSING, statuses=(400, 404), codes=("resource_missing",)),
    Row(ProblemKind.KEY_REFUSED, statuses=(401,)),
    Row(
        ProblemKind.PERMISSION_MISSING,
        statuses=(403,),
        types=_REQUEST,
        phrases=("permission",),
    ),
    Row(
        ProblemKind.ACCOUNT_REFUSED,
        statuses=(400, 403),
        types=_REQUEST,
        phrases=(
            "does not have access to account",
            "only stripe connect platforms can work with other accounts",
        ),
    ),
    Row(
        # What a version without usage records says: from basil on the endpoint is gone.
        ProblemKind.VERSION_UNSUPPORTED,
        statuses=(404,),
        types=_REQUEST,
        codes=_NO_CODE,
        phrases=("unrecognized request url",),
    ),
    Row(
        ProblemKind.VERSION_UNSUPPORTED,
        statuses=(400,),
        types=_REQUEST,
        phrases=("invalid stripe api version",),
    ),
    Row(ProblemKind.IDEMPOTENCY_MISMATCH, statuses=(400,), types=("idempotency_error",)),
    Row(ProblemKind.IDEMPOTENCY_IN_USE, statuses=(409,), codes=("idempotency_key_in_use",)),
    Row(
        ProblemKind.IDEMPOTENCY_IN_USE,
        statuses=(409,),
        types=("idempotency_error",),
        codes=_NO_CODE,
    ),
    Row(ProblemKind.LOCK_TIMEOUT, statuses=(429,), codes=("lock_timeout",)),
    Row(
        ProblemKind.RATE_LIMITED,
        statuses=(429,),
        codes=("rate_limit", "rate_limit_exceeded", None),
        reasons=_REASONS,
    ),
    Row(ProblemKind.SERVER_ERROR, statuses=range(500, 600)),
)

# Asked only when no row above knew the answer: Stripe rewords its messages now and then.
FALLBACKS: tuple[Row, ...] = (
    # Too late or too early cannot be told apart without the text, so neither is claimed.
    Row(ProblemKind.TIMESTAMP_REFUSED, statuses=(400,), types=_REQUEST, params=("timestamp",)),
    Row(ProblemKind.PERMISSION_MISSING, statuses=(403,), types=_REQUEST),
    # The official client retries every 409; one without a Stripe body comes from someone else.
    Row(
        ProblemKind.CONFLICT,
        statuses=(409,),
        types=("invalid_request_error", "api_error", "idempotency_error"),
    ),
    # A 429 without the limiter's header is a lock on the object ...
    Row(
        ProblemKind.LOCK_TIMEOUT,
        statuses=(429,),
        types=("invalid_request_error", "api_error", "idempotency_error", "card_error"),
        codes=_NO_CODE,
        reasons=(None,),
    ),
    # ... unless it says otherwise, or comes from something in between that limits us.
    Row(ProblemKind.RATE_LIMITED, statuses=(429,)),
)


def classify(answer: ErrorAnswer) -> StripeProblem:
    """Which known error this is; `UNFORESEEN` when no row knows it."""
    for rows in (ROWS, FALLBACKS):
        for row in rows:
            if row.matches(answer):
                return _problem(row.kind, answer)
    return _problem(ProblemKind.UNFORESEEN, answer)


def _problem(kind: ProblemKind, answer: ErrorAnswer) -> StripeProblem:
    reason = None
    if kind is ProblemKind.RATE_LIMITED:
        said = answer.rate_limited_reason
        reason = RateLimitReason(said) if said in _REASONS else RateLimitReason.UNKNOWN
    return StripeProblem(kind, CATEGORIES[kind], reason)
