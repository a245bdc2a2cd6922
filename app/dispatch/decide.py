"""What follows an answer of Stripe: a pure decision, a table per kind of answer.

Closed by default: only answers that are known to be transient are tried again, and one that nobody
foresaw holds the record. An outage of Stripe is not an error of a record: a failure counts against
a record only when others succeeded since its last one.
"""

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Final

from app.dispatch.reasons import HoldReason, StopReason
from app.stripe_client.answers import Action
from app.stripe_client.errors import (
    MalformedAnswer,
    StripeAnswered,
    StripeError,
    StripeUnreachable,
    VersionMismatch,
)
from app.stripe_client.problems import ProblemKind, RateLimitReason

# Stripe's own client waits min(0.5 * 2^(n-1), 5) s; a service can be more patient than a page.
FIRST_DELAY = 0.5
LONGEST_DELAY = 60.0
# About five minutes of failures that are the record's own.
MOST_FAILURES = 12
# A stored 500 is replayed under its key for ever; `set` may go on under a new one.
SAME_KEY_FAILURES = 2
LONGEST_RETRY_AFTER = 600.0
# Another writer of the object is done in a moment, however busy the account is.
FIRST_LOCK_DELAY = 0.2
LONGEST_LOCK_DELAY = 5.0
# After a 429 that does not say for how long.
LIMITED_PAUSE = 1.0


class Verdict(StrEnum):
    """What is done with a record after an attempt."""

    RETRY = "retried"  # `set`: the same request under the same key
    NEW_KEY = "retried_new_key"  # the same request under another key: safe for `set` only
    HOLD = "held"
    RESOLVE = "resolved"  # the subscription is read again, once, and the windows booked anew
    STOP_LINE = "line_stopped"  # nothing about this record: nothing may be sent at all


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict. `delay` in seconds; `pause` stops everything for so many seconds (429).

    `too_fast`: calls leave too fast; `too_many`: too many are in flight at once. An increment whose
    outcome is in doubt is held as `IN_DOUBT`; so it may be where the line stops.
    """

    verdict: Verdict
    delay: float = 0.0
    hold: HoldReason | None = None
    stop: StopReason | None = None
    counted: bool = False
    outage: bool = False
    pause: float = 0.0
    too_fast: bool = False
    too_many: bool = False


@dataclass(frozen=True, slots=True)
class History:
    """What went before: counted failures, when the last one was, and when Stripe took any record.

    `in_a_row`: this record's failures since its last success, counted or not, as far as this
    process knows. It only slows down: a lone record that is refused for an hour (a clock that is
    wrong, a lock that stays) is not asked about twice a second.
    """

    failures: int
    failed_at: datetime | None
    last_success: datetime | None
    in_a_row: int = 0

    @property
    def counts(self) -> bool:
        """Whether Stripe took other records since this one last failed."""
        return (
            self.failed_at is not None
            and self.last_success is not None
            and self.last_success > self.failed_at
        )


_HOLDS: Final[dict[ProblemKind, HoldReason]] = {
    ProblemKind.TIMESTAMP_REFUSED: HoldReason.TIMESTAMP_REFUSED,
    ProblemKind.INVALID_INTEGER: HoldReason.QUANTITY_REFUSED,
    ProblemKind.UNFORESEEN: HoldReason.UNFORESEEN_ANSWER,
}
# What we knew of the subscription is out of date. `hold` is what it comes to if a fresh read does
# not help.
_RESOLVES: Final[dict[ProblemKind, HoldReason]] = {
    ProblemKind.PERIOD_CLOSED: HoldReason.PERIOD_CLOSED,
    ProblemKind.ITEM_NO_LONGER_ACTIVE: HoldReason.ITEM_GONE,
    ProblemKind.RESOURCE_MISSING: HoldReason.ITEM_GONE,
    ProblemKind.PRICE_HAS_BILLING_METER: HoldReason.PRICE_HAS_BILLING_METER,
    ProblemKind.THRESHOLDS_INCREMENT_ONLY: HoldReason.BILLING_THRESHOLDS,
}
_STOPS: Final[dict[ProblemKind, StopReason]] = {
    ProblemKind.KEY_REFUSED: StopReason.KEY_REFUSED,
    ProblemKind.PERMISSION_MISSING: StopReason.PERMISSION_MISSING,
    ProblemKind.ACCOUNT_REFUSED: StopReason.ACCOUNT_REFUSED,
    ProblemKind.VERSION_UNSUPPORTED: StopReason.VERSION_MISMATCH,
}
# After these, besides what the client calls in doubt, an increment may have been added: an earlier
# POST under the key is, or was, being executed.
_MAY_HAVE_ADDED: Final = frozenset({ProblemKind.IDEMPOTENCY_IN_USE, ProblemKind.CONFLICT})

_TOO_MANY: Final = frozenset(
    {RateLimitReason.GLOBAL_CONCURRENCY, RateLimitReason.ENDPOINT_CONCURRENCY}
)


def backoff(
    failures: int, jitter: float, *, first: float = FIRST_DELAY, longest: float = LONGEST_DELAY
) -> float:
    """Seconds before the next attempt, after `failures` failures; `jitter` in [0, 1)."""
    delay = min(first * 2.0 ** min(failures, 10), longest)
    return float(delay * (0.5 + jitter / 2))


def stop_of(error: StripeError) -> StopReason | None:
    """Why this answer means that nothing may be sent at all, if it does."""
    if isinstance(error, VersionMismatch):
        return StopReason.VERSION_MISMATCH
    return _STOPS.get(error.kind) if isinstance(error, StripeAnswered) else None


def is_outage(error: StripeError) -> bool:
    """Whether the answer (or its lack) says that Stripe is in trouble, and not a record."""
    if isinstance(error, StripeAnswered):
        return error.kind is ProblemKind.SERVER_ERROR
    return isinstance(error, StripeUnreachable | MalformedAnswer)


def decide(
    error: StripeError, history: History, *, jitter: float, action: Action = "set"
) -> Decision:
    """What follows an attempt that did not succeed."""
    if action == "increment":
        return _after_increment(error, history, jitter)
    return _after_set(error, history, jitter)


def not_sent(error: StripeError) -> Decision:
    """What follows a read before an increment that failed: nothing left, Stripe is in trouble."""
    stop = stop_of(error)
    if stop is not None:
        return Decision(Verdict.STOP_LINE, stop=stop)
    return Decision(Verdict.RETRY, outage=True)


def may_have_added(error: StripeError) -> bool:
    """Whether an increment that ended so may have been executed; never sent again then."""
    kind = error.kind if isinstance(error, StripeAnswered) else None
    return error.in_doubt or kind in _MAY_HAVE_ADDED


def _after_increment(error: StripeError, history: History, jitter: float) -> Decision:
    """An increment is idempotent by its key alone, so nothing is repeated that may have counted."""
    if may_have_added(error):
        stop = stop_of(error)
        return Decision(
            Verdict.HOLD if stop is None else Verdict.STOP_LINE,
            hold=HoldReason.IN_DOUBT,
            stop=stop,
            outage=is_outage(error),
        )
    decision = _after_set(error, history, jitter)
    if decision.hold is HoldReason.BILLING_THRESHOLDS:
        # Only `set` is refused for them: this answer makes no sense, and to resolve it would send
        # the same increment again and again.
        return Decision(Verdict.HOLD, hold=HoldReason.UNFORESEEN_ANSWER)
    if decision.verdict is Verdict.NEW_KEY:
        return replace(decision, verdict=Verdict.RETRY)  # each attempt has a key of its own
    return decision


def _after_set(error: StripeError, history: History, jitter: float) -> Decision:
    stop = stop_of(error)
    if stop is not None:
        return Decision(Verdict.STOP_LINE, stop=stop)
    if isinstance(error, StripeAnswered):
        if error.kind in _RESOLVES:
            return Decision(Verdict.RESOLVE, hold=_RESOLVES[error.kind], delay=LONGEST_DELAY)
        advised = error.meta.should_retry is True and error.kind is ProblemKind.UNFORESEEN
        if error.kind in _HOLDS and not advised:
            return Decision(Verdict.HOLD, hold=_HOLDS[error.kind])
    return _again(error, history, jitter)


def _again(error: StripeError, history: History, jitter: float) -> Decision:
    """A known transient answer: when, under which key, and whether it counts."""
    asked = min(error.meta.retry_after or 0, LONGEST_RETRY_AFTER) if error.meta else 0.0
    failures = max(history.failures, history.in_a_row)
    delay = max(backoff(failures, jitter), asked)
    kind = error.kind if isinstance(error, StripeAnswered) else None
    if isinstance(error, StripeAnswered) and kind is ProblemKind.RATE_LIMITED:
        return _limited(error.problem.rate_limited_reason, delay, asked)
    if kind is ProblemKind.LOCK_TIMEOUT:
        short = backoff(failures, jitter, first=FIRST_LOCK_DELAY, longest=LONGEST_LOCK_DELAY)
        return Decision(Verdict.RETRY, max(short, asked))
    if isinstance(error, StripeUnreachable):
        return Decision(Verdict.RETRY, delay, outage=True)
    if history.counts and history.failures + 1 >= MOST_FAILURES:
        return Decision(Verdict.HOLD, hold=HoldReason.ATTEMPTS_EXHAUSTED, counted=True)
    stored = kind is ProblemKind.SERVER_ERROR and (
        history.failures >= SAME_KEY_FAILURES
        or (error.meta is not None and error.meta.idempotent_replayed)
    )
    new_key = stored or kind is ProblemKind.IDEMPOTENCY_MISMATCH
    return Decision(
        Verdict.NEW_KEY if new_key else Verdict.RETRY,
        delay,
        counted=history.counts,
        outage=is_outage(error),
    )


def _limited(reason: RateLimitReason | None, delay: float, asked: float) -> Decision:
    """A limiter spoke: of this one object, of what is in flight, or of the pace of all.

    One that does not say which (something in between may limit us, too) is taken for the last.
    """
    if reason is RateLimitReason.RESOURCE_SPECIFIC:
        return Decision(Verdict.RETRY, delay)
    if reason in _TOO_MANY:
        return Decision(Verdict.RETRY, delay, pause=asked, too_many=True)
    return Decision(Verdict.RETRY, delay, pause=max(asked, LIMITED_PAUSE), too_fast=True)
