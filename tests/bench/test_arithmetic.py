"""The arithmetic of figures: what a page says must follow from what was measured."""

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.arithmetic import (
    Target,
    Verdict,
    at_least,
    at_most,
    median,
    per_second,
    percentile,
    ratios,
    rounded,
    spread,
    verdict,
)

NUMBERS = st.lists(st.floats(min_value=0, max_value=1e9), min_size=1, max_size=50)


@given(NUMBERS)
def test_the_median_is_that_of_the_standard_library(values: list[float]) -> None:
    assert median(values) == pytest.approx(statistics.median(values))


@given(NUMBERS, st.floats(min_value=0.01, max_value=1))
def test_a_percentile_was_seen_and_that_share_does_not_exceed_it(
    values: list[float], share: float
) -> None:
    found = percentile(values, share)
    below = sum(value <= found for value in values)
    assert found in values
    assert below >= share * len(values)
    assert sum(value < found for value in values) < share * len(values)


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ([5.0], 0.99, 5.0),
        ([1.0, 2.0, 3.0, 4.0], 0.50, 2.0),
        ([4.0, 3.0, 2.0, 1.0], 0.75, 3.0),
        (list(range(1, 101)), 0.99, 99),
        (list(range(1, 101)), 1.0, 100),
    ],
)
def test_percentiles_by_nearest_rank(values: list[float], share: float, expected: float) -> None:
    assert percentile(values, share) == expected


@pytest.mark.parametrize("share", [0.0, -0.1, 1.1])
def test_a_share_is_above_0_and_up_to_1(share: float) -> None:
    with pytest.raises(ValueError, match="share"):
        percentile([1.0], share)


def test_nothing_measured_is_no_figure() -> None:
    with pytest.raises(ValueError, match="no values"):
        median([])
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)
    with pytest.raises(ValueError, match="no time"):
        per_second(1, 0)


@pytest.mark.parametrize(
    ("got", "target", "expected"),
    [
        (0.40, at_least(0.40), Verdict.MET),
        (0.3999, at_least(0.40), Verdict.MISSED),
        (2.0, at_most(2), Verdict.MET),
        (2.01, at_most(2), Verdict.MISSED),
        (0.0, at_most(0), Verdict.MET),
        (float("nan"), at_least(0.4), Verdict.MISSED),
        (float("nan"), at_most(0.4), Verdict.MISSED),
        (0.1, None, Verdict.PUBLISHED),
        (None, at_least(0.4), Verdict.NOT_MEASURED),
        (None, None, Verdict.NOT_MEASURED),
    ],
)
def test_verdicts(got: float | None, target: Target | None, expected: Verdict) -> None:
    assert verdict(got, target) is expected


def test_ratios_are_taken_run_by_run() -> None:
    assert ratios([2.0, 9.0], [4.0, 3.0]) == [0.5, 3.0]
    with pytest.raises(ValueError, match="one of theirs"):
        ratios([1.0], [])


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (0.04167, "0.0417"),
        (0.4, "0.400"),
        (1.5, "1.50"),
        (12.34, "12.3"),
        (123.4, "123"),
        (23456.7, "23,457"),
        (-3.14159, "-3.14"),
        (float("inf"), "inf"),
    ],
)
def test_numbers_as_people_read_them(value: float, shown: str) -> None:
    assert rounded(value) == shown


def test_a_spread_names_the_least_and_the_greatest() -> None:
    assert spread([3.0, 1.0, 2.0], rounded) == "2.00 (1.00 to 3.00)"
    assert spread([2.0], rounded) == "2.00"
