"""Exact amounts and the rounding of totals."""

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.ledger.quantity import amount, round_total
from app.mapping.models import Rounding

#                        half_up, half_even, up, down
ROUNDED = [
    (Fraction(0), (0, 0, 0, 0)),
    (Fraction(1, 10**30), (0, 0, 1, 0)),
    (Fraction(2, 5), (0, 0, 1, 0)),
    (Fraction(1, 2), (1, 0, 1, 0)),
    (Fraction(3, 2), (2, 2, 2, 1)),
    (Fraction(5, 2), (3, 2, 3, 2)),
    (Fraction(7, 2), (4, 4, 4, 3)),
    (Fraction(5, 2) - Fraction(1, 10**30), (2, 2, 3, 2)),
    (Fraction(5, 2) + Fraction(1, 10**30), (3, 3, 3, 2)),
    (Fraction(7), (7, 7, 7, 7)),
    (Fraction(2**63) + Fraction(1, 2), (2**63 + 1, 2**63, 2**63 + 1, 2**63)),
    (Fraction(-1, 10**30), (0, 0, 0, 0)),
    (Fraction(-1, 2), (0, 0, 0, 0)),
    (Fraction(-3, 2), (0, 0, 0, 0)),
    (Fraction(-7), (0, 0, 0, 0)),
]


@pytest.mark.parametrize(("total", "expected"), ROUNDED)
def test_totals_are_rounded_by_the_mode_and_never_below_zero(
    total: Fraction, expected: tuple[int, int, int, int]
) -> None:
    modes = (Rounding.HALF_UP, Rounding.HALF_EVEN, Rounding.UP, Rounding.DOWN)
    assert tuple(round_total(total, mode) for mode in modes) == expected


def test_every_rounding_has_its_row() -> None:
    assert {round_total(Fraction(1), mode) for mode in Rounding} == {1}


AMOUNTS = [
    ("0.30000000000000004", Fraction(1), Fraction(30000000000000004, 10**17)),
    ("0.1", Fraction(1), Fraction(1, 10)),
    ("10", Fraction(1, 3), Fraction(10, 3)),
    ("1E+29", Fraction(1), Fraction(10**29)),
    ("1E-400", Fraction(1), Fraction(1, 10**400)),
    ("-2.5", Fraction(2), Fraction(-5)),
    ("-0", Fraction(7), Fraction(0)),
    (
        "123456789012345678901234567890",
        Fraction(1, 1000),
        Fraction(12345678901234567890123456789, 100),
    ),
    (f"0.{'1' * 449}", Fraction(10**449), Fraction(int("1" * 449))),
]


@pytest.mark.parametrize(("value", "scale", "expected"), AMOUNTS)
def test_an_amount_is_exact(value: str, scale: Fraction, expected: Fraction) -> None:
    assert amount(Decimal(value), scale) == expected


@given(st.decimals(allow_nan=False, allow_infinity=False), st.fractions(min_value=0))
def test_dividing_an_amount_by_its_scale_gives_the_value_back(
    value: Decimal, scale: Fraction
) -> None:
    if scale:
        assert amount(value, scale) / scale == Fraction(value)
