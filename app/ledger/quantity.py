"""Quantities: exact amounts, and how their running total becomes whole numbers. Pure."""

from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from math import ceil, floor
from typing import Final

from app.mapping.models import Rounding

HALF: Final = Fraction(1, 2)

_ROUND: Final[dict[Rounding, Callable[[Fraction], int]]] = {
    Rounding.HALF_UP: lambda total: floor(total + HALF),
    Rounding.HALF_EVEN: round,  # Fraction rounds ties to even
    Rounding.UP: ceil,
    Rounding.DOWN: floor,
}


def amount(value: Decimal, scale: Fraction) -> Fraction:
    """Units of one window: value x scale, exact."""
    return Fraction(value) * scale


def round_total(total: Fraction, rounding: Rounding) -> int:
    """The whole number that stands for an exact total. Stripe takes none below zero."""
    return max(0, _ROUND[rounding](total))
