"""What follows an answer: every kind of problem, on every history, as one table."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.dispatch.decide import (
    FIRST_LOCK_DELAY,
    LONGEST_DELAY,
    LONGEST_LOCK_DELAY,
    LONGEST_RETRY_AFTER,
    MOST_FAILURES,
    SAME_KEY_FAILURES,
    Decision,
    History,
    Verdict,
    backoff,
    decide,
    may_have_added,
    not_sent,
)
from app.dispatch.reasons import HoldReason, StopReason
from app.stripe_client.errors import StripeError
from app.stripe_client.problems import ProblemKind, RateLimitReason
from tests.dispatch import answers

T0 = datetime(2026, 3, 1, 12, tzinfo=UTC)
FIRST = History(failures=0, failed_at=None, last_success=T0)
# It failed before, and Stripe took others since: the failure is the record's own.
COUNTED = History(failures=1, failed_at=T0, last_success=T0 + timedelta(seconds=1))
LAST_BUT_ONE = replace(COUNTED, failures=MOST_FAILURES - 2)
EXHAUSTED = replace(COUNTED, failures=MOST_FAILURES - 1)
# Nobody got through since it failed: an outage, however long.
OUTAGE = History(failures=MOST_FAILURES - 1, failed_at=T0, last_success=T0 - timedelta(hours=9))
NOTHING_YET = replace(OUTAGE, last_success=None)

RETRY, NEW_KEY, HOLD = Verdict.RETRY, Verdict.NEW_KEY, Verdict.HOLD
RESOLVE, STOP = Verdict.RESOLVE, Verdict.STOP_LINE
K = ProblemKind
R = RateLimitReason

# The verdict on: the first failure, a counted one, the one that exhausts, and one in an outage.
TABLE: dict[ProblemKind, tuple[Verdict, Verdict, Verdict, Verdict]] = {
    K.PERIOD_CLOSED: (RESOLVE, RESOLVE, RESOLVE, RESOLVE),
    K.TIMESTAMP_IN_FUTURE: (RETRY, RETRY, HOLD, RETRY),
    K.TIMESTAMP_REFUSED: (HOLD, HOLD, HOLD, HOLD),
    K.PRICE_HAS_BILLING_METER: (RESOLVE, RESOLVE, RESOLVE, RESOLVE),
    K.ITEM_NO_LONGER_ACTIVE: (RESOLVE, RESOLVE, RESOLVE, RESOLVE),
    K.INVALID_INTEGER: (HOLD, HOLD, HOLD, HOLD),
    K.THRESHOLDS_INCREMENT_ONLY: (RESOLVE, RESOLVE, RESOLVE, RESOLVE),
    K.RESOURCE_MISSING: (RESOLVE, RESOLVE, RESOLVE, RESOLVE),
    K.PERMISSION_MISSING: (STOP, STOP, STOP, STOP),
    K.KEY_REFUSED: (STOP, STOP, STOP, STOP),
    K.ACCOUNT_REFUSED: (STOP, STOP, STOP, STOP),
    K.VERSION_UNSUPPORTED: (STOP, STOP, STOP, STOP),
    K.IDEMPOTENCY_MISMATCH: (NEW_KEY, NEW_KEY, HOLD, NEW_KEY),
    K.IDEMPOTENCY_IN_USE: (RETRY, RETRY, HOLD, RETRY),
    K.CONFLICT: (RETRY, RETRY, HOLD, RETRY),
    K.LOCK_TIMEOUT: (RETRY, RETRY, RETRY, RETRY),
    K.RATE_LIMITED: (RETRY, RETRY, RETRY, RETRY),
    # The first failures under the same key; from the third on it may be one that Stripe stored.
    K.SERVER_ERROR: (RETRY, RETRY, HOLD, NEW_KEY),
    K.UNFORESEEN: (HOLD, HOLD, HOLD, HOLD),
}
# The same for `increment`: nothing is repeated that may have counted.
INCREMENTS = TABLE | {
    K.THRESHOLDS_INCREMENT_ONLY: (HOLD, HOLD, HOLD, HOLD),
    K.IDEMPOTENCY_MISMATCH: (RETRY, RETRY, HOLD, RETRY),
    K.IDEMPOTENCY_IN_USE: (HOLD, HOLD, HOLD, HOLD),
    K.CONFLICT: (HOLD, HOLD, HOLD, HOLD),
    K.SERVER_ERROR: (HOLD, HOLD, HOLD, HOLD),
}
HISTORIES = (FIRST, COUNTED, EXHAUSTED, OUTAGE)

HELD_FOR = {
    K.PERIOD_CLOSED: HoldReason.PERIOD_CLOSED,
    K.TIMESTAMP_REFUSED: HoldReason.TIMESTAMP_REFUSED,
    K.INVALID_INTEGER: HoldReason.QUANTITY_REFUSED,
    K.UNFORESEEN: HoldReason.UNFORESEEN_ANSWER,
    K.PRICE_HAS_BILLING_METER: HoldReason.PRICE_HAS_BILLING_METER,
    K.ITEM_NO_LONGER_ACTIVE: HoldReason.ITEM_GONE,
    K.RESOURCE_MISSING: HoldReason.ITEM_GONE,
    K.THRESHOLDS_INCREMENT_ONLY: HoldReason.BILLING_THRESHOLDS,
}
INCREMENTS_HELD_FOR = HELD_FOR | {
    K.THRESHOLDS_INCREMENT_ONLY: HoldReason.UNFORESEEN_ANSWER,
    K.IDEMPOTENCY_IN_USE: HoldReason.IN_DOUBT,
    K.CONFLICT: HoldReason.IN_DOUBT,
    K.SERVER_ERROR: HoldReason.IN_DOUBT,
}
STOPPED_FOR = {
    K.PERMISSION_MISSING: StopReason.PERMISSION_MISSING,
    K.KEY_REFUSED: StopReason.KEY_REFUSED,
    K.ACCOUNT_REFUSED: StopReason.ACCOUNT_REFUSED,
    K.VERSION_UNSUPPORTED: StopReason.VERSION_MISMATCH,
}


def verdict(error: StripeError, history: History = FIRST) -> Decision:
    return decide(error, history, jitter=0.5)


@pytest.mark.parametrize("kind", ProblemKind)
def test_every_kind_on_every_history(kind: ProblemKind) -> None:
    decisions = [verdict(answers.answered(kind), history) for history in HISTORIES]
    assert tuple(decision.verdict for decision in decisions) == TABLE[kind]


@pytest.mark.parametrize("kind", ProblemKind)
def test_who_must_act_is_named(kind: ProblemKind) -> None:
    first = verdict(answers.answered(kind))
    assert first.hold == HELD_FOR.get(kind)
    assert first.stop == STOPPED_FOR.get(kind)
    exhausted = verdict(answers.answered(kind), EXHAUSTED)
    if exhausted.verdict is HOLD and kind not in HELD_FOR:
        assert exhausted.hold is HoldReason.ATTEMPTS_EXHAUSTED


@pytest.mark.parametrize("kind", ProblemKind)
def test_a_failure_counts_only_when_others_succeeded_since_the_last_one(kind: ProblemKind) -> None:
    error = answers.answered(kind)
    own = TABLE[kind][1] in (RETRY, NEW_KEY) and kind not in (K.LOCK_TIMEOUT, K.RATE_LIMITED)
    assert verdict(error, COUNTED).counted == own
    for history in (FIRST, OUTAGE, NOTHING_YET, replace(COUNTED, last_success=COUNTED.failed_at)):
        assert not verdict(error, history).counted
        assert verdict(error, history).hold is not HoldReason.ATTEMPTS_EXHAUSTED


@pytest.mark.parametrize(
    ("error", "last", "outage"),
    [
        (answers.cut(), RETRY, True),
        (answers.never_connected(), RETRY, True),
        (answers.malformed(), HOLD, True),
        (answers.other_version(), STOP, False),
    ],
    ids=["cut", "never connected", "malformed", "other version"],
)
def test_what_is_no_error_answer(error: StripeError, last: Verdict, outage: bool) -> None:
    expected = STOP if last is STOP else RETRY
    for history in (FIRST, COUNTED, LAST_BUT_ONE, OUTAGE):
        decision = verdict(error, history)
        assert (decision.verdict, decision.outage) == (expected, outage)
    assert verdict(error, EXHAUSTED).verdict is last


def test_a_stored_500_goes_on_under_a_new_key() -> None:
    replayed = answers.answered(K.SERVER_ERROR, replayed=True)
    assert verdict(replayed).verdict is NEW_KEY
    fresh = answers.answered(K.SERVER_ERROR)
    for failures in range(SAME_KEY_FAILURES):
        assert verdict(fresh, replace(COUNTED, failures=failures)).verdict is RETRY
    assert verdict(fresh, replace(COUNTED, failures=SAME_KEY_FAILURES)).verdict is NEW_KEY


@pytest.mark.parametrize("kind", ProblemKind)
@pytest.mark.parametrize("advice", [True, False, None])
def test_stripes_advice_saves_only_what_nobody_foresaw(
    kind: ProblemKind, advice: bool | None
) -> None:
    decision = verdict(answers.answered(kind, should_retry=advice))
    if kind is K.UNFORESEEN and advice is True:
        assert decision.verdict is RETRY
    else:
        assert decision.verdict is TABLE[kind][0]


@pytest.mark.parametrize(
    ("asked", "least"), [(None, 0.0), (0, 0.0), (7, 7.0), (86_400, LONGEST_RETRY_AFTER)]
)
@pytest.mark.parametrize("kind", [k for k in ProblemKind if TABLE[k][0] in (RETRY, NEW_KEY)])
def test_retry_after_is_waited_for_up_to_ten_minutes(
    kind: ProblemKind, asked: int | None, least: float
) -> None:
    decision = verdict(answers.answered(kind, retry_after=asked))
    assert decision.delay >= least
    assert decision.delay <= max(least, backoff(0, 1.0))


def lock_backoff(failures: int, jitter: float = 0.0) -> float:
    return backoff(failures, jitter, first=FIRST_LOCK_DELAY, longest=LONGEST_LOCK_DELAY)


@pytest.mark.parametrize(
    ("reason", "retry_after", "pause", "too_fast", "too_many"),
    [
        (R.ENDPOINT_RATE, None, 1.0, True, False),
        (R.ENDPOINT_RATE, 7, 7.0, True, False),
        (R.GLOBAL_RATE, 86_400, LONGEST_RETRY_AFTER, True, False),
        (R.UNKNOWN, None, 1.0, True, False),
        (None, 7, 7.0, True, False),
        (R.ENDPOINT_CONCURRENCY, None, 0.0, False, True),
        (R.GLOBAL_CONCURRENCY, 7, 7.0, False, True),
        (R.RESOURCE_SPECIFIC, None, 0.0, False, False),
        (R.RESOURCE_SPECIFIC, 7, 0.0, False, False),
    ],
)
def test_each_limiter_slows_down_what_it_speaks_of(
    reason: RateLimitReason | None,
    retry_after: int | None,
    pause: float,
    too_fast: bool,
    too_many: bool,
) -> None:
    decision = verdict(answers.answered(K.RATE_LIMITED, retry_after=retry_after, reason=reason))
    assert (decision.pause, decision.too_fast, decision.too_many) == (pause, too_fast, too_many)
    assert (decision.verdict, decision.counted, decision.outage) == (RETRY, False, False)
    assert decision.delay >= min(retry_after or 0, LONGEST_RETRY_AFTER)


@pytest.mark.parametrize("kind", [kind for kind in ProblemKind if kind is not K.RATE_LIMITED])
def test_nothing_but_a_limiter_slows_down_the_others(kind: ProblemKind) -> None:
    decision = verdict(answers.answered(kind, retry_after=7))
    assert (decision.pause, decision.too_fast, decision.too_many) == (0.0, False, False)


def test_a_lock_is_asked_for_again_soon_and_on_and_on() -> None:
    delays = [
        verdict(answers.answered(K.LOCK_TIMEOUT), replace(FIRST, in_a_row=n)).delay
        for n in range(12)
    ]
    assert delays == sorted(delays)
    assert delays[0] <= FIRST_LOCK_DELAY < delays[-1] <= LONGEST_LOCK_DELAY


def test_outages_are_those_of_stripe() -> None:
    outages = {kind for kind in ProblemKind if verdict(answers.answered(kind)).outage}
    assert outages == {K.SERVER_ERROR}


@given(st.integers(0, 5_000), st.floats(0, 1, exclude_max=True))
def test_backoff_grows_to_its_bound(failures: int, jitter: float) -> None:
    assert 0 < backoff(failures, jitter) <= LONGEST_DELAY
    assert backoff(failures, jitter) <= backoff(failures + 1, jitter)
    assert backoff(failures, 0.0) <= backoff(failures, jitter) <= 2 * backoff(failures, 0.0)


@given(st.sampled_from(ProblemKind), st.integers(0, 400), st.booleans())
def test_uncounted_failures_slow_down_too(kind: ProblemKind, in_a_row: int, outage: bool) -> None:
    history = replace(OUTAGE if outage else FIRST, failures=0, in_a_row=in_a_row)
    decision = verdict(answers.answered(kind), history)
    if decision.verdict in (RETRY, NEW_KEY):
        lock = kind is K.LOCK_TIMEOUT
        assert decision.delay >= (lock_backoff(in_a_row) if lock else backoff(in_a_row, 0.0))
        assert not decision.counted


def increment(error: StripeError, history: History = FIRST) -> Decision:
    return decide(error, history, jitter=0.5, action="increment")


@pytest.mark.parametrize("kind", ProblemKind)
def test_every_kind_on_every_history_of_an_increment(kind: ProblemKind) -> None:
    error = answers.answered(kind)
    decisions = [increment(error, history) for history in HISTORIES]
    assert tuple(decision.verdict for decision in decisions) == INCREMENTS[kind]
    assert decisions[0].hold == INCREMENTS_HELD_FOR.get(kind)
    assert decisions[0].stop == STOPPED_FOR.get(kind)
    doubts = {decision.hold is HoldReason.IN_DOUBT for decision in decisions}
    assert doubts == {may_have_added(error)}


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (answers.cut(), Decision(HOLD, hold=HoldReason.IN_DOUBT, outage=True)),
        (answers.malformed(), Decision(HOLD, hold=HoldReason.IN_DOUBT, outage=True)),
        (
            answers.other_version(),
            Decision(STOP, hold=HoldReason.IN_DOUBT, stop=StopReason.VERSION_MISMATCH),
        ),
        (
            answers.answered(K.SERVER_ERROR, replayed=True),
            Decision(HOLD, hold=HoldReason.IN_DOUBT, outage=True),
        ),
    ],
    ids=["cut", "malformed", "other version", "stored 500"],
)
def test_an_increment_in_doubt_is_held_at_once(error: StripeError, expected: Decision) -> None:
    for history in (FIRST, COUNTED, EXHAUSTED, OUTAGE, NOTHING_YET):
        assert increment(error, history) == expected


def test_an_increment_that_never_left_is_tried_again() -> None:
    decision = increment(answers.never_connected(), EXHAUSTED)
    assert (decision.verdict, decision.hold, decision.outage) == (RETRY, None, True)


@pytest.mark.parametrize("kind", ProblemKind)
def test_a_look_before_an_increment_that_fails_holds_nothing(kind: ProblemKind) -> None:
    decision = not_sent(answers.answered(kind))
    assert decision.hold is None
    assert decision.stop == STOPPED_FOR.get(kind)
    assert (decision.verdict is STOP) == (kind in STOPPED_FOR)
    assert decision.outage != (kind in STOPPED_FOR)
