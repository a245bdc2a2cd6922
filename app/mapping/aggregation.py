"""Which aggregations of a meter fit which `aggregate_usage` of a price. Pure: two tables.

A delta sent to `last_during_period` bills the last window only, a maximum sent to `sum` bills all
maxima added up: where the two do not fit, nothing may be booked.
"""

from typing import Final

from app.mapping.models import Combination

COMBINATIONS: Final[dict[str, Combination]] = {
    "sum": Combination.SUM,
    "max": Combination.MAX,
    "last_during_period": Combination.LATEST,
    "last_ever": Combination.LATEST,
}
# How the windows of a meter combine to its value of a whole period.
NEEDED: Final[dict[str, Combination]] = {
    "SUM": Combination.SUM,
    "COUNT": Combination.SUM,
    "MAX": Combination.MAX,
    "LATEST": Combination.LATEST,
}
# No combination of windows gives the period's value: it must be asked for as a whole.
WHOLE_PERIOD_ONLY: Final = frozenset({"AVG", "MIN", "UNIQUE_COUNT"})


def combination_of(aggregate_usage: str | None) -> Combination | None:
    """How a price combines its usage records; None where its `aggregate_usage` is none we know."""
    return COMBINATIONS.get(aggregate_usage or "")


def fits(aggregation: str, combination: Combination | None, *, whole_period: bool) -> bool:
    """Whether usage of such a meter can stand at a price that combines in this way.

    The value of a whole period is one record, and every combination of one record is that record.
    """
    if combination is None:
        return False
    if aggregation in WHOLE_PERIOD_ONLY:
        return whole_period
    return NEEDED.get(aggregation) is combination


def misfit(aggregation: str, aggregate_usage: str | None, *, whole_period: bool) -> str | None:
    """Why the two do not fit, with both values named; None where they do."""
    combination = combination_of(aggregate_usage)
    if fits(aggregation, combination, whole_period=whole_period):
        return None
    return (
        f"the price has aggregate_usage {aggregate_usage or 'none'}, the meter aggregates by "
        f"{aggregation}, which {_needs(aggregation, whole_period=whole_period)}"
    )


def _needs(aggregation: str, *, whole_period: bool) -> str:
    if aggregation not in NEEDED and aggregation not in WHOLE_PERIOD_ONLY:
        return "is none that can be billed"
    if aggregation in WHOLE_PERIOD_ONLY:
        if whole_period:
            return "needs " + " or ".join(COMBINATIONS)
        return "needs whole_period: true in its mapping"
    fitting = [name for name, made in COMBINATIONS.items() if made is NEEDED[aggregation]]
    return "needs " + " or ".join(fitting)
