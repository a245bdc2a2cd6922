"""What follows an answer: every kind of problem, on every history, as one table."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.dispatch.decide import (
    LONGEST_DELAY,
    LONGEST_RETRY_AFTER,
    MOST_FAILURES,
    SAME_KEY_FAILURES,
    Decision,
    History,
    Verdict,
    backoff,
    decide,
)
from app.dispatch.reasons import HoldReason, StopReason
from app.stripe_client.errors import StripeError
from app.stripe_client.problems import ProblemKind
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


def test_a_limiter_pauses_everything_and_a_lock_does_not() -> None:
    assert verdict(answers.answered(K.RATE_LIMITED)).pause == 1.0
    assert verdict(answers.answered(K.RATE_LIMITED, retry_after=7)).pause == 7.0
    assert verdict(answers.answered(K.LOCK_TIMEOUT, retry_after=7)).pause == 0.0


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
        assert decision.delay >= backoff(in_a_row, 0.0)
        assert not decision.counted
