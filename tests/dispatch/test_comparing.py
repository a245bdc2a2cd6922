"""Which increments were executed: as decisive as the sums are, and never more."""

from itertools import chain, combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.dispatch.comparing import (
    MOST_COMBINED,
    OpenRecord,
    compare,
    executed_of,
    in_period,
    period_of,
)
from app.stripe_client.answers import UsageRecordSummary


def summary(
    start: int | None = 100, end: int | None = 200, total: int = 0, name: str = "sis_1"
) -> UsageRecordSummary:
    return UsageRecordSummary(name, "si_1", None, start, end, total, livemode=False)


def doubtful(number: int, difference: int | None = 5, *, summed: bool = True) -> OpenRecord:
    return OpenRecord(number, 150, "k", difference, summed, attempts=1)


SUMS: list[tuple[int, dict[int, int], frozenset[int] | None]] = [
    (0, {1: 5}, frozenset()),
    (5, {1: 5}, frozenset({1})),
    (4, {1: 5}, None),
    (-5, {1: 5}, None),
    (6, {1: 5}, None),
    (3, {1: 5, 2: 3}, frozenset({2})),
    (8, {1: 5, 2: 3}, frozenset({1, 2})),
    (5, {1: 5, 2: 5}, None),  # one of them: which?
    (10, {1: 5, 2: 5}, frozenset({1, 2})),
    (5, {1: 5, 2: 3, 3: 2}, None),  # the first, or the other two
    (7, {1: 5, 2: 3, 3: 2}, frozenset({1, 3})),
    (1, {n: 2**n for n in range(MOST_COMBINED)}, frozenset({0})),
    (1, {n: 2**n for n in range(MOST_COMBINED + 1)}, None),
    (0, {n: 2**n for n in range(40)}, frozenset()),
    (2**40 - 1, {n: 2**n for n in range(40)}, frozenset(range(40))),
]


@pytest.mark.parametrize(("missing", "differences", "expected"), SUMS)
def test_sums(missing: int, differences: dict[int, int], expected: frozenset[int] | None) -> None:
    assert executed_of(missing, differences) == expected


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.data())
def test_an_answer_is_the_only_one_and_is_found_where_there_is_one(
    sizes: list[int], data: st.DataObject
) -> None:
    differences = dict(enumerate(sizes))
    really = data.draw(st.frozensets(st.sampled_from(sorted(differences))))
    missing = sum(differences[n] for n in really)
    subsets = chain.from_iterable(combinations(differences, n) for n in range(len(sizes) + 1))
    fitting = [set(s) for s in subsets if sum(differences[n] for n in s) == missing]
    found = executed_of(missing, differences)
    assert found == (really if len(fitting) == 1 else None)


@pytest.mark.parametrize(
    ("second", "expected"),
    [(100, "old"), (101, "sis_1"), (200, "sis_1"), (201, "new"), (10**12, "new")],
)
def test_a_period_begins_after_its_start_and_ends_with_its_end(second: int, expected: str) -> None:
    shown = [summary(200, None, name="new"), summary(), summary(None, 100, name="old")]
    found = period_of(second, shown)
    assert found is not None
    assert found.id == expected
    assert [s.id for s in shown if in_period(second, s)] == [expected]
    assert period_of(201, [summary()]) is None
    assert period_of(100, [summary()]) is None


def test_a_single_doubt_is_decided_both_ways_and_both_figures_are_named() -> None:
    executed = compare(summary(total=15), 10, [doubtful(1)])
    assert executed.executed == {1: True}
    assert compare(summary(total=10), 10, [doubtful(1)]).executed == {1: False}
    strange = compare(summary(total=12), 10, [doubtful(1)])
    assert strange.executed == {}
    assert strange.records == (1,)
    for figure in ("12", "10", "15"):
        assert figure in strange.detail


def test_what_cannot_be_compared_is_not_decided() -> None:
    beside = compare(summary(total=15), 10, [doubtful(1), doubtful(2, None)])
    assert (beside.executed, beside.records) == ({}, (1,))
    assert "outstanding" in beside.detail
    newest = compare(summary(total=15), 10, [doubtful(1, summed=False)])
    assert (newest.executed, newest.records) == ({}, (1,))
