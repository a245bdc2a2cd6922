"""The demo's proof fails when the two sides differ, and its windows lie where they must."""

import io
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from app.commands import demo_tables
from app.commands.demo_comparison import (
    Answered,
    FaultSeen,
    ItemComparison,
    ParkedKey,
    compare,
    differences,
    standing,
)
from app.commands.demo_scenario import (
    ACME_CALLS,
    ACME_TOKENS,
    BILLED,
    CYCLE_BEGAN,
    DAY,
    GLOBEX_BEGAN,
    GLOBEX_CALLS,
    GLOBEX_GPU,
    INITECH_TOKENS,
    deliveries,
)
from app.commands.demo_tables import ParkedRow
from app.sandbox.periods import Cycle, Interval

NOW = datetime(2026, 3, 15, 12, 30, tzinfo=UTC)
SENT = deliveries(NOW)
WINDOWS = standing(SENT)
EQUAL = {
    ACME_TOKENS.id: 2501,
    ACME_CALLS.id: 1175,
    GLOBEX_GPU.id: 2,
    GLOBEX_CALLS.id: 64,
    INITECH_TOKENS.id: 42,
    "si_initech_price_addon_1": 0,
}
PARKED: list[ParkedKey] = [
    ("globex", "api_calls", "before_subscription"),
    ("hooli", "ai_prompt_tokens", "no_subject_mapping"),
    ("acme", "latency_ms", "aggregation_unsupported"),
]
ANSWERS = [Answered(delivery, delivery.status) for delivery in SENT]
SEEN = [FaultSeen("a cut", seen=True)]


def judged(
    held: dict[str, int] | None = None,
    answers: Sequence[Answered] = ANSWERS,
    parked: Sequence[ParkedKey] = PARKED,
    faults: Sequence[FaultSeen] = SEEN,
    held_records: int = 0,
) -> list[str]:
    return differences(
        items=compare(WINDOWS, BILLED, EQUAL if held is None else held),
        answers=answers,
        windows=WINDOWS,
        parked=parked,
        faults=faults,
        held_records=held_records,
    )


def test_equal_sides_pass() -> None:
    assert judged() == []


def _wrong_answer(position: int, status: int) -> list[Answered]:
    return [
        replace(answer, status=status) if n == position else answer
        for n, answer in enumerate(ANSWERS)
    ]


@pytest.mark.parametrize(
    ("difference", "words"),
    [
        (judged({**EQUAL, ACME_TOKENS.id: 2500}), ["si_acme_tokens", "2501", "2500"]),
        (judged({**EQUAL, ACME_TOKENS.id: 2501 * 2}), ["si_acme_tokens", "5002"]),
        (judged({k: v for k, v in EQUAL.items() if k != GLOBEX_GPU.id}), ["gpu", "nothing"]),
        (judged({**EQUAL, "si_initech_price_addon_1": 3}), ["addon_1", "sent 0", "holds 3"]),
        (judged(answers=_wrong_answer(1, 202)), ["same delivery", "202, not 200"]),
        (judged(answers=_wrong_answer(len(SENT) - 1, 202)), ["signature", "202, not 401"]),
        (judged(parked=PARKED[1:]), ["not parked", "globex api_calls before_subscription"]),
        (judged(parked=[*PARKED, PARKED[0]]), ["without need", "before_subscription"]),
        (
            judged(parked=[*PARKED[1:], ("globex", "api_calls", "item_not_found")]),
            ["not parked", "without need", "item_not_found"],
        ),
        (judged(faults=[FaultSeen("a cut", seen=False)]), ["a cut", "not seen"]),
        (judged(held_records=1), ["1 usage records are held"]),
    ],
)
def test_every_difference_is_told(difference: list[str], words: list[str]) -> None:
    assert difference
    said = "; ".join(difference)
    for word in words:
        assert word in said


def test_the_newest_message_counts_whatever_the_order() -> None:
    values = {(w.subject, w.meter, w.window_start): w.value for w in WINDOWS}
    assert values["acme", "api_calls", datetime(2026, 3, 13, tzinfo=UTC)] == 1175
    assert {w.value for w in standing(reversed(SENT))} == {w.value for w in WINDOWS}
    # acme 2 groups + 1 day of calls, acme-eu 1, globex 4 hours + 1 day, initech 1, parked 3.
    assert len(WINDOWS) == 13


def test_nothing_forged_counts() -> None:
    assert all(window.value != 999999 for window in WINDOWS)


def test_fractions_are_added_before_they_are_rounded() -> None:
    [gpu] = [item for item in compare(WINDOWS, BILLED, EQUAL) if item.item == GLOBEX_GPU.id]
    assert gpu.exact == Fraction(150000000000000004, 10**17)
    assert gpu.wanted == 2


def moments() -> st.SearchStrategy[datetime]:
    edges = [
        datetime(2026, 3, 1, 0, 0, 5, tzinfo=UTC),
        datetime(2027, 1, 1, tzinfo=UTC),
        datetime(2028, 2, 29, 23, 59, 59, tzinfo=UTC),
        datetime(2026, 3, 21, 0, 0, 0, 1, tzinfo=UTC),
    ]
    spread = st.datetimes(
        min_value=datetime(2025, 1, 1),  # noqa: DTZ001 - hypothesis adds the zone
        max_value=datetime(2060, 1, 1),  # noqa: DTZ001
        timezones=st.just(UTC),
    )
    return st.sampled_from(edges) | spread


@given(moments())
def test_windows_are_over_and_in_the_open_period(now: datetime) -> None:
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    began = midnight - CYCLE_BEGAN
    end = Cycle(int(began.timestamp()), Interval.MONTH).next_boundary_after(int(began.timestamp()))
    assert int(now.timestamp()) + DAY.total_seconds() < end
    starts = {"globex": midnight - GLOBEX_BEGAN}
    for delivery in deliveries(now):
        for window in delivery.windows:
            assert window.window_end <= now
            at = window.window_end - timedelta(seconds=1)
            inside = at > starts.get(delivery.subject, began)
            assert inside == (delivery.parked != "before_subscription")


def printed(items: Sequence[ItemComparison], wrong: Sequence[str]) -> str:
    output = io.StringIO()
    console = Console(file=output, width=80)
    demo_tables.print_answers(console, ANSWERS)
    demo_tables.print_faults(console, SEEN)
    demo_tables.print_comparison(console, items)
    demo_tables.print_parked(
        console, [ParkedRow(*key, action="Apply a mapping.") for key in PARKED]
    )
    demo_tables.print_verdict(console, wrong)
    return output.getvalue()


def test_tables_fit_and_say_it() -> None:
    items = compare(WINDOWS, BILLED, EQUAL)
    said = printed(items, [])
    assert all(len(line) <= 80 for line in said.splitlines())
    for word in ("1250300", "0.30000000000000004", "2500.7", "1.50000000000000004", "EQUAL"):
        assert word in said
    assert said.count("equal") == 5
    assert "WRONG" not in said


def test_tables_show_what_is_wrong() -> None:
    items = compare(WINDOWS, BILLED, {**EQUAL, ACME_CALLS.id: 0})
    said = printed(items, ["si_acme_calls: [OpenMeter] sent 1175, Stripe holds 0"])
    assert said.count("WRONG") == 1
    assert "NOT AS IT MUST BE" in said
    assert "[OpenMeter]" in said
