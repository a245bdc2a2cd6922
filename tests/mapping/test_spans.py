"""Where periods end, and in which part of one a subscription pays for a subject."""

from datetime import UTC, datetime

import pytest

from app.mapping.models import SubjectMapping
from app.mapping.reasons import ParkReason
from app.mapping.resolution import Parked, Period
from app.mapping.spans import ended_by_the_next, paid_part
from tests.mapping.stripe_side import span

D = [datetime(2026, 3, day, tzinfo=UTC) for day in range(1, 20)]
PERIOD = Period(D[2], D[9])


@pytest.mark.parametrize(
    ("periods", "expected"),
    [
        ([], []),
        ([(1, 3)], [(1, 3)]),
        ([(1, 9)], [(1, 5)]),
        ([(5, 9)], [(5, 9)]),
        ([(3, 9), (1, 8)], [(1, 3), (3, 5)]),
        ([(1, 9), (1, 4)], [(1, 4), (1, 5)]),
    ],
)
def test_no_period_goes_beyond_the_start_of_the_next(
    periods: list[tuple[int, int]], expected: list[tuple[int, int]]
) -> None:
    found = ended_by_the_next([Period(D[start], D[end]) for start, end in periods], D[5])
    assert found == [Period(D[start], D[end]) for start, end in expected]


@pytest.mark.parametrize(
    ("paid", "expected"),
    [
        ([span()], (2, 9)),
        ([span(valid_from=D[1], valid_to=D[10])], (2, 9)),
        ([span(valid_from=D[4])], (4, 9)),
        ([span(valid_to=D[4])], (2, 4)),
        ([span(valid_from=D[4], valid_to=D[5])], (4, 5)),
        ([span(valid_to=D[4]), span(valid_from=D[4], valid_to=D[6])], (2, 6)),
        ([span(valid_from=D[4], valid_to=D[6]), span(valid_to=D[4])], (2, 6)),
        ([span(valid_from=D[4]), span(valid_to=D[1])], (4, 9)),
        ([span(valid_to=D[4]), span(valid_from=D[9])], (2, 4)),
    ],
)
def test_the_part_that_a_subscription_pays_for(
    paid: list[SubjectMapping], expected: tuple[int, int]
) -> None:
    assert paid_part(PERIOD, paid) == Period(D[expected[0]], D[expected[1]])


@pytest.mark.parametrize(
    "paid",
    [
        [span(valid_to=D[4]), span(valid_from=D[6])],
        [span(valid_from=D[6]), span(valid_to=D[4])],
        [span(valid_from=D[9])],
    ],
)
def test_what_is_not_one_part_is_parked(paid: list[SubjectMapping]) -> None:
    found = paid_part(PERIOD, paid)
    assert isinstance(found, Parked)
    assert found.reason is ParkReason.AGGREGATION_UNSUPPORTED
