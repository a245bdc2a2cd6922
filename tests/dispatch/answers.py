"""Stripe's answers as the client raises them, one of each kind."""

from app.stripe_client.errors import (
    FailurePhase,
    MalformedAnswer,
    StripeAnswered,
    StripeUnreachable,
    VersionMismatch,
)
from app.stripe_client.meta import AnswerMeta
from app.stripe_client.problems import (
    CATEGORIES,
    ErrorAnswer,
    ProblemKind,
    RateLimitReason,
    StripeProblem,
)

STATUS = {
    ProblemKind.RESOURCE_MISSING: 404,
    ProblemKind.PERMISSION_MISSING: 403,
    ProblemKind.KEY_REFUSED: 401,
    ProblemKind.ACCOUNT_REFUSED: 403,
    ProblemKind.VERSION_UNSUPPORTED: 404,
    ProblemKind.IDEMPOTENCY_IN_USE: 409,
    ProblemKind.CONFLICT: 409,
    ProblemKind.LOCK_TIMEOUT: 429,
    ProblemKind.RATE_LIMITED: 429,
    ProblemKind.SERVER_ERROR: 500,
}


def answered(
    kind: ProblemKind,
    *,
    replayed: bool = False,
    should_retry: bool | None = None,
    retry_after: int | None = None,
    reason: RateLimitReason | None = None,
) -> StripeAnswered:
    """An error answer of a kind."""
    status = STATUS.get(kind, 400)
    return StripeAnswered(
        StripeProblem(kind, CATEGORIES[kind], reason),
        ErrorAnswer(status, type="invalid_request_error", message="as Stripe says it"),
        AnswerMeta(
            status=status,
            request_id="req_1",
            idempotent_replayed=replayed,
            should_retry=should_retry,
            retry_after=retry_after,
        ),
    )


def cut() -> StripeUnreachable:
    """The connection broke after the request had left."""
    return StripeUnreachable("cut", phase=FailurePhase.EXCHANGE, sent=True)


def never_connected() -> StripeUnreachable:
    """Nobody there: certainly not executed."""
    return StripeUnreachable("refused", phase=FailurePhase.CONNECT, sent=False)


def malformed() -> MalformedAnswer:
    """A 200 with garbage in it."""
    return MalformedAnswer("not JSON", meta=AnswerMeta(request_id="req_1"))


def other_version() -> VersionMismatch:
    """A 200 of another API version."""
    return VersionMismatch("2025-02-24.acacia", meta=AnswerMeta(stripe_version="2026-01-01.x"))
