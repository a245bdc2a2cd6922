"""Amounts, times and states in words."""

from datetime import UTC, datetime, timedelta, timezone
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.dispatch.reasons import HoldReason
from app.ledger.explained import PeriodHead
from app.ledger.explained_words import (
    PeriodStatus,
    action_of,
    counted,
    moment,
    span,
    status_of,
)
from app.mapping.reasons import ParkReason
from app.mapping.units import exact_text

START = datetime(2026, 3, 1, tzinfo=UTC)
END = datetime(2026, 4, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("amount", "said"),
    [
        (Fraction(0), "0"),
        (Fraction(12), "12"),
        (Fraction(-12), "-12"),
        (Fraction(5, 2), "2.5"),
        (Fraction(-1, 8), "-0.125"),
        (Fraction(1, 1000), "0.001"),
        (Fraction(37, 3), "37/3"),
        (Fraction(-1, 6), "-1/6"),
        (Fraction(10**30 + 1, 10**3), "1000000000000000000000000000.001"),
    ],
)
def test_exact_amounts(amount: Fraction, said: str) -> None:
    assert exact_text(amount) == said


@given(st.fractions(max_denominator=10**6))
def test_an_amount_is_never_rounded(amount: Fraction) -> None:
    assert Fraction(exact_text(amount)) == amount


@pytest.mark.parametrize(
    ("at", "said"),
    [
        (START, "1 Mar 2026 00:00"),
        (START + timedelta(seconds=5), "1 Mar 2026 00:00:05"),
        (
            datetime(2026, 3, 1, 1, tzinfo=timezone(timedelta(hours=2))),
            "28 Feb 2026 23:00",
        ),
    ],
)
def test_moments(at: datetime, said: str) -> None:
    assert moment(at) == said


@pytest.mark.parametrize(
    ("end", "said"),
    [
        (START + timedelta(hours=1), "1 Mar 2026 00:00 to 01:00"),
        (START + timedelta(days=1), "1 Mar 2026 00:00 to 2 Mar 2026 00:00"),
        # The first of March elsewhere, and the second here.
        (
            datetime(2026, 3, 1, 23, 30, tzinfo=timezone(timedelta(hours=-1))),
            "1 Mar 2026 00:00 to 2 Mar 2026 00:30",
        ),
    ],
)
def test_spans(end: datetime, said: str) -> None:
    assert span(START, end) == said


def test_a_span_without_a_known_start() -> None:
    assert span(datetime(1970, 1, 1, tzinfo=UTC), START) == "all until 1 Mar 2026 00:00"


def test_counted() -> None:
    assert [counted(n, "unit") for n in (0, 1, 12345)] == ["0 units", "1 unit", "12,345 units"]


@pytest.mark.parametrize(
    ("now", "closed_at", "status"),
    [
        (START, None, PeriodStatus.OPEN),
        (END, None, PeriodStatus.ENDED),
        (END, END, PeriodStatus.CLOSED),
        # Closed before its time: a threshold moved the anchor.
        (START, START, PeriodStatus.CLOSED),
    ],
)
def test_status(now: datetime, closed_at: datetime | None, status: PeriodStatus) -> None:
    head = PeriodHead(1, "sub_1", "si_1", START, END, closed_at=closed_at)
    assert status_of(head, now) is status


@pytest.mark.parametrize("reason", ParkReason)
def test_every_parked_window_has_an_action(reason: ParkReason) -> None:
    assert action_of("parked", reason)


@pytest.mark.parametrize("reason", HoldReason)
def test_every_held_record_has_an_action(reason: HoldReason) -> None:
    assert action_of("held", reason)


@pytest.mark.parametrize(
    ("state", "reason", "some"),
    [
        ("late", None, True),
        ("pending", "awaiting_snapshot", True),
        ("pending", "moving", True),
        ("covered", "in_parts", True),
        ("booked", None, False),
        ("reported", None, False),
        ("due", None, False),
        ("parked", "unknown_to_this_version", True),
    ],
)
def test_actions_of_other_states(state: str, reason: str | None, some: bool) -> None:
    assert (action_of(state, reason) is not None) is some
