"""Billing periods: they tile time, and short months do not wear an anchor down."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.sandbox.periods import Cycle, Interval
from tests.sandbox.world import unix

_TIMES = st.integers(min_value=unix("2001-01-01T00:00:00"), max_value=unix("2060-01-01T00:00:00"))
_CYCLES = st.builds(Cycle, _TIMES, st.sampled_from(Interval), st.integers(1, 36))


def _iso(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat().removesuffix("+00:00")


@pytest.mark.parametrize(
    ("anchor", "interval", "count", "boundaries"),
    [
        pytest.param(
            "2026-01-31T10:00:00",
            Interval.MONTH,
            1,
            ["2026-02-28T10:00:00", "2026-03-31T10:00:00", "2026-04-30T10:00:00"],
            id="the 31st clamps and comes back",
        ),
        pytest.param(
            "2023-12-30T00:00:00",
            Interval.MONTH,
            1,
            ["2024-01-30T00:00:00", "2024-02-29T00:00:00", "2024-03-30T00:00:00"],
            id="the 30th in a leap year",
        ),
        pytest.param(
            "2024-02-29T23:59:59",
            Interval.YEAR,
            1,
            ["2025-02-28T23:59:59", "2026-02-28T23:59:59", "2027-02-28T23:59:59"],
            id="leap day clamps",
        ),
        pytest.param(
            "2024-02-29T00:00:00",
            Interval.YEAR,
            4,
            ["2028-02-29T00:00:00", "2032-02-29T00:00:00"],
            id="leap day comes back",
        ),
        pytest.param(
            "2025-11-30T00:00:00",
            Interval.MONTH,
            3,
            ["2026-02-28T00:00:00", "2026-05-30T00:00:00"],
            id="a quarter over the year's end",
        ),
        pytest.param(
            "2026-03-25T06:00:00",
            Interval.WEEK,
            2,
            ["2026-04-08T06:00:00", "2026-04-22T06:00:00"],
            id="fortnights",
        ),
        pytest.param(
            "2026-03-28T12:00:00",
            Interval.DAY,
            1,
            ["2026-03-29T12:00:00", "2026-03-30T12:00:00"],
            id="days, over a change to summer time",
        ),
    ],
)
def test_boundaries_follow_the_anchor(
    anchor: str, interval: Interval, count: int, boundaries: list[str]
) -> None:
    cycle = Cycle(unix(anchor), interval, count)
    found = [_iso(cycle.boundary(number)) for number in range(1, len(boundaries) + 1)]
    assert found == boundaries


def test_boundaries_go_back_in_time_too() -> None:
    cycle = Cycle(unix("2026-03-31T00:00:00"), Interval.MONTH)
    assert [_iso(cycle.boundary(-number)) for number in (1, 2)] == [
        "2026-02-28T00:00:00",
        "2026-01-31T00:00:00",
    ]


@given(_CYCLES, st.integers(-40, 40))
def test_consecutive_periods_tile_time(cycle: Cycle, number: int) -> None:
    start, end = cycle.boundary(number), cycle.boundary(number + 1)
    assert start < end
    assert cycle.next_boundary_after(start) == end
    assert cycle.next_boundary_after(end - 1) == end


@given(_CYCLES, _TIMES)
def test_the_next_boundary_is_the_first_one_after(cycle: Cycle, at: int) -> None:
    # Found by walking, not by the arithmetic under test.
    number = 0
    while cycle.boundary(number) <= at:
        number += 1
    while cycle.boundary(number - 1) > at:
        number -= 1
    assert cycle.next_boundary_after(at) == cycle.boundary(number)


@given(_CYCLES, st.integers(-40, 40))
def test_months_keep_the_anchors_time_and_day(cycle: Cycle, number: int) -> None:
    anchor = datetime.fromtimestamp(cycle.anchor, UTC)
    found = datetime.fromtimestamp(cycle.boundary(number), UTC)
    assert found.time() == anchor.time()
    if cycle.interval in {Interval.MONTH, Interval.YEAR}:
        assert found.day == anchor.day or (found.day < anchor.day and found.day >= 28)


@pytest.mark.parametrize(
    ("anchor", "end"),
    [
        pytest.param("2026-05-20T00:00:00", "2026-05-20T00:00:00", id="an anchor ahead ends it"),
        pytest.param("2026-01-10T00:00:00", "2026-03-10T00:00:00", id="an anchor long ago"),
        pytest.param("2026-03-01T00:00:00", "2026-04-01T00:00:00", id="the start is the anchor"),
    ],
)
def test_the_first_period_ends_at(anchor: str, end: str) -> None:
    cycle = Cycle(unix(anchor), Interval.MONTH)
    assert _iso(cycle.first_end(unix("2026-03-01T00:00:00"))) == end
