"""`meterbridge prune`: delete now what is older than the settings keep."""

from collections import Counter

from sqlalchemy.ext.asyncio import AsyncEngine

from app.clock import Clock
from app.config import Settings
from app.retention.pruner import Pruner
from app.retention.terms import Terms

_NAMES = {
    "item_periods": "item periods, with their windows and records",
    "usage_windows": "windows",
    "window_revisions": "revisions of windows",
    "usage_records": "usage records",
    "carries": "carries",
    "attempts": "attempts",
    "deliveries": "deliveries",
    "bodies": "raw bodies",
}
_NOTHING = (
    "Nothing is older than RETENTION_DAYS and RAW_RETENTION_DAYS (or a warning says why nothing is "
    "deleted)."
)


async def prune(
    engine: AsyncEngine, clock: Clock, settings: Settings, *, dry_run: bool
) -> Counter[str]:
    """One sweep: rows by what they are. Raises DatabaseUnavailable."""
    terms = Terms.of_days(settings.retention_days, settings.raw_retention_days)
    return await Pruner(engine, clock, terms, dry_run=dry_run).sweep()


def describe(pruned: Counter[str], *, dry_run: bool) -> list[str]:
    """What a sweep did, or would do, in lines."""
    verb = "to be deleted" if dry_run else "deleted"
    lines = [f"{pruned[name]:,} {words}: {verb}" for name, words in _NAMES.items() if pruned[name]]
    return lines or [_NOTHING]
