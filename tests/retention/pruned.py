"""A ledger that is pruned: what is left of it."""

from collections import Counter
from datetime import timedelta
from typing import Any

from app.retention.pruner import Pruner
from app.retention.terms import Terms
from tests.ledger.months import Months

KEPT = timedelta(days=45)
"""In June what ended in March is older than that, and what ended in April is not."""
TABLES = ("deliveries", "usage_windows", "window_revisions", "usage_records", "carries", "attempts")


def pruner(months: Months, terms: Terms | None = None, *, rows_at_once: int = 1_000) -> Pruner:
    """A pruner at the world's time."""
    return Pruner(
        months.world.engine,
        months.world.clock,
        terms or Terms(KEPT, None),
        rows_at_once=rows_at_once,
        pause=0,
    )


async def prune(months: Months, terms: Terms | None = None) -> Counter[str]:
    """One sweep: rows by table."""
    return await pruner(months, terms).sweep()


async def counts(months: Months) -> dict[str, int]:
    """The rows of each table, those without any left out."""
    found = {}
    for table in TABLES:
        [row] = await months.world.rows(f"select count(*) as n from {table}")
        found[table] = row["n"]
    return {table: number for table, number in found.items() if number}


async def totals(months: Months) -> list[dict[str, Any]]:
    """What the item periods say they come to."""
    return await months.world.rows(
        "select subscription_item, period_start, exact_numerator, exact_denominator, rounded_total "
        "from item_periods order by id"
    )


async def windows_of(months: Months) -> list[dict[str, Any]]:
    """What became of each window."""
    return await months.world.rows(
        "select window_start, window_end, state, reason, value from usage_windows "
        "order by window_start, window_end"
    )
