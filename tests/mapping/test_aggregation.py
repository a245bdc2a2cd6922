"""What a meter's aggregation asks of a price: every aggregation with every `aggregate_usage`."""

import pytest

from app.mapping.aggregation import combination_of, fits, misfit
from app.mapping.models import Combination

PRICES = ["sum", "max", "last_during_period", "last_ever", "median", None]

# The aggregation of a meter, and the prices that it fits window by window.
FITTING = [
    ("SUM", {"sum"}),
    ("COUNT", {"sum"}),
    ("MAX", {"max"}),
    ("LATEST", {"last_during_period", "last_ever"}),
    ("AVG", set()),
    ("MIN", set()),
    ("UNIQUE_COUNT", set()),
    ("UNKNOWN", set()),
    ("sum", set()),
]


@pytest.mark.parametrize(("aggregation", "fitting"), FITTING)
@pytest.mark.parametrize("price", PRICES)
def test_which_prices_take_the_windows_of_a_meter(
    aggregation: str, fitting: set[str], price: str | None
) -> None:
    fit = fits(aggregation, combination_of(price), whole_period=False)
    assert fit == (price in fitting)
    assert (misfit(aggregation, price, whole_period=False) is None) == fit


@pytest.mark.parametrize(("aggregation", "fitting"), FITTING)
@pytest.mark.parametrize("price", PRICES)
def test_a_whole_period_is_one_record_and_fits_every_known_price(
    aggregation: str, fitting: set[str], price: str | None
) -> None:
    """Only of what windows cannot tell: what can be combined from them still is."""
    asked_whole = aggregation in ("AVG", "MIN", "UNIQUE_COUNT")
    fit = price not in ("median", None) if asked_whole else price in fitting
    assert fits(aggregation, combination_of(price), whole_period=True) == fit
    assert (misfit(aggregation, price, whole_period=True) is None) == fit


@pytest.mark.parametrize(
    ("price", "combination"),
    [
        ("sum", Combination.SUM),
        ("max", Combination.MAX),
        ("last_during_period", Combination.LATEST),
        ("last_ever", Combination.LATEST),
        ("median", None),
        ("", None),
        (None, None),
    ],
)
def test_how_a_price_combines(price: str | None, combination: Combination | None) -> None:
    assert combination_of(price) is combination


@pytest.mark.parametrize(
    ("aggregation", "price", "whole_period", "needs"),
    [
        ("SUM", "max", False, "needs sum"),
        ("COUNT", None, False, "needs sum"),
        ("MAX", "sum", False, "needs max"),
        ("LATEST", "sum", False, "needs last_during_period or last_ever"),
        ("AVG", "sum", False, "needs whole_period: true in its mapping"),
        ("AVG", "median", True, "needs sum or max or last_during_period or last_ever"),
        ("UNKNOWN", "sum", True, "is none that can be billed"),
    ],
)
def test_a_misfit_names_both_values_and_what_is_needed(
    aggregation: str, price: str | None, whole_period: bool, needs: str
) -> None:
    assert misfit(aggregation, price, whole_period=whole_period) == (
        f"the price has aggregate_usage {price or 'none'}, the meter aggregates by {aggregation}, "
        f"which {needs}"
    )
