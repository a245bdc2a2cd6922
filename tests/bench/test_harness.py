"""The independent account of what was sent: what is lost or doubled is counted, by case."""

from collections import Counter
from datetime import UTC, datetime

import pytest

from bench import harness
from bench.account import item_of

SINCE = datetime(2026, 1, 1, tzinfo=UTC)
PLAIN, PAIRED, CORRECTED = harness.CASES


def _held() -> Counter[str]:
    """What a receiver that makes no mistake holds: the last value of every window."""
    payers = harness.subscriptions()
    last = {
        (message.subject, window.window_start, tuple(window.group_by.items())): window.value
        for message in harness.messages(SINCE)
        for window in message.windows
    }
    held: Counter[str] = Counter()
    for (subject, _, _), value in last.items():
        held[item_of(payers[subject])] += int(value)
    return held


def test_nothing_is_wrong_where_all_is_held() -> None:
    for found in harness.settle(harness.messages(SINCE), _held()).values():
        assert found.owed > 0
        assert (found.lost, found.doubled) == (0, 0)


@pytest.mark.parametrize("case", harness.CASES)
def test_what_is_missing_is_lost_and_what_is_over_is_doubled(case: harness.Case) -> None:
    held = _held()
    held[item_of(case.subscription(0))] -= 7
    held[item_of(case.subscription(harness.SUBJECTS - 1))] += 5
    found = harness.settle(harness.messages(SINCE), held)
    assert (found[case.title].lost, found[case.title].doubled) == (7, 5)
    for other in harness.CASES:
        if other is not case:
            assert (found[other.title].lost, found[other.title].doubled) == (0, 0)


def test_an_item_that_holds_nothing_has_lost_all() -> None:
    found = harness.settle(harness.messages(SINCE), {})
    assert all(case.lost == case.owed for case in found.values())


def test_two_subjects_pay_by_one_item_in_pairs_only() -> None:
    payers = harness.subscriptions()
    by_case = {
        case: {payers[case.subject(n)] for n in range(harness.SUBJECTS)} for case in harness.CASES
    }
    assert [len(by_case[case]) for case in (PLAIN, PAIRED, CORRECTED)] == [
        harness.SUBJECTS,
        harness.SUBJECTS // 2,
        harness.SUBJECTS,
    ]


def test_only_corrected_windows_come_twice() -> None:
    seen = Counter(
        (message.subject.split("-")[0], message.subject, window.window_start, str(window.group_by))
        for message in harness.messages(SINCE)
        for window in message.windows
    )
    assert {name: count for (name, *_), count in seen.items()} == {
        "plain": 1,
        "paired": 1,
        "corrected": 2,
    }
