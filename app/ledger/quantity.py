"""Quantities: exact amounts, and how their running total becomes whole numbers. Pure."""

from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from math import ceil, floor
from typing import Final

from app.mapping.models import Rounding

HALF: Final = Fraction(1, 2)
NOTHING: Final = Fraction(0)

_ROUND: Final[dict[Rounding, Callable[[Fraction], int]]] = {
    Rounding.HALF_UP: lambda total: floor(total + HALF),
    Rounding.HALF_EVEN: round,  # Fraction rounds ties to even
    Rounding.UP: ceil,
    Rounding.DOWN: floor,
}


def amount(value: Decimal, scale: Fraction) -> Fraction:
    """Units of one window: value x scale, exact."""
    numerator, denominator = value.as_integer_ratio()
    units = Fraction(numerator) if denominator == 1 else Fraction(numerator, denominator)
    return units if scale == 1 else units * scale


def round_total(total: Fraction, rounding: Rounding) -> int:
    """The whole number that stands for an exact total. Stripe takes none below zero."""
    # Whole totals are most of all: a fraction's arithmetic costs ten times as much.
    whole = total.numerator if total.denominator == 1 else _ROUND[rounding](total)
    return max(0, whole)
