"""One captured example per row of the error table; what no row knows is unforeseen."""

import string
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.stripe_client.error_table import FALLBACKS, ROWS, Row, classify
from app.stripe_client.problems import (
    CATEGORIES,
    ErrorAnswer,
    ProblemCategory,
    ProblemKind,
    RateLimitReason,
)
from tests.stripe_client.error_examples import (
    EXAMPLES,
    FALLBACK_EXAMPLES,
    REQUEST,
    UNFORESEEN_EXAMPLES,
)


def matching(rows: tuple[Row, ...], answer: ErrorAnswer) -> list[Row]:
    return [row for row in rows if row.matches(answer)]


@pytest.mark.parametrize(("kind", "answer"), EXAMPLES)
def test_a_captured_error_is_known_by_one_row_only(kind: ProblemKind, answer: ErrorAnswer) -> None:
    assert [row.kind for row in matching(ROWS, answer)] == [kind]
    problem = classify(answer)
    assert (problem.kind, problem.category) == (kind, CATEGORIES[kind])


@pytest.mark.parametrize(("kind", "answer"), FALLBACK_EXAMPLES)
def test_a_reworded_error_falls_back_on_its_fields(kind: ProblemKind, answer: ErrorAnswer) -> None:
    assert matching(ROWS, answer) == []
    assert classify(answer).kind is kind


@pytest.mark.parametrize("answer", UNFORESEEN_EXAMPLES)
def test_what_no_row_knows_is_unforeseen(answer: ErrorAnswer) -> None:
    assert classify(answer).kind is ProblemKind.UNFORESEEN
    assert classify(answer).category is ProblemCategory.UNFORESEEN


def test_every_row_has_an_example() -> None:
    unseen = [row for row in ROWS if not any(row.matches(answer) for _, answer in EXAMPLES)]
    unseen += [
        row for row in FALLBACKS if not any(row.matches(answer) for _, answer in FALLBACK_EXAMPLES)
    ]
    assert unseen == []


def test_every_phrase_has_an_example() -> None:
    messages = [(answer.message or "").casefold() for _, answer in EXAMPLES]
    phrases = {phrase.casefold() for row in ROWS for phrase in row.phrases}
    unseen = {phrase for phrase in phrases if not any(phrase in message for message in messages)}
    assert unseen == {"billing_thresholds"}  # the same row by the name of the field


def test_every_kind_has_a_category_and_a_row() -> None:
    assert set(CATEGORIES) == set(ProblemKind)
    rows = {row.kind for row in (*ROWS, *FALLBACKS)}
    assert rows == set(ProblemKind) - {ProblemKind.UNFORESEEN}


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("endpoint-concurrency", RateLimitReason.ENDPOINT_CONCURRENCY),
        ("brand-new", RateLimitReason.UNKNOWN),
        ("unknown", RateLimitReason.UNKNOWN),
        (None, RateLimitReason.UNKNOWN),
    ],
)
def test_the_limiter_that_spoke_is_kept(said: str | None, reason: RateLimitReason) -> None:
    answer = ErrorAnswer(429, REQUEST, code="rate_limit", rate_limited_reason=said)
    problem = classify(answer)
    assert (problem.kind, problem.rate_limited_reason) == (ProblemKind.RATE_LIMITED, reason)


def test_other_problems_have_no_limiter() -> None:
    assert classify(ErrorAnswer(500, rate_limited_reason="global-rate")).rate_limited_reason is None


def test_letters_case_in_the_message_does_not_matter() -> None:
    for kind, answer in EXAMPLES:
        shouted = replace(answer, message=answer.message.upper() if answer.message else None)
        assert classify(shouted).kind is kind


words = st.none() | st.text(string.printable, max_size=30) | st.sampled_from([
    REQUEST, "api_error", "idempotency_error", "resource_missing", "lock_timeout", "timestamp",
])  # fmt: skip


@given(st.builds(ErrorAnswer, st.integers(0, 999), words, words, words, words, words))
def test_any_answer_gets_a_kind_and_only_known_ones_are_retried(answer: ErrorAnswer) -> None:
    problem = classify(answer)
    assert problem.category is CATEGORIES[problem.kind]
    if problem.category in {ProblemCategory.TRANSIENT, ProblemCategory.PACE}:
        assert answer.status in {409, 429} or 500 <= answer.status < 600
