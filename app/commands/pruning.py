"""`meterbridge prune`: delete now what is older than the settings keep."""

from collections import Counter
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncEngine

from app.clock import Clock
from app.config import Settings
from app.retention.older import OlderReplica
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
_NOTHING = "Nothing is older than RETENTION_DAYS and RAW_RETENTION_DAYS, and settled."
_NEVER = "RETENTION_DAYS and RAW_RETENTION_DAYS are both 0: nothing is ever deleted."
_ELSEWHERE = "Another process is deleting just now; the rest is left to it."
# A dry run takes each batch back, so it never comes to what only the batches before it set free.
NOT_COUNTED = (
    "Not counted: the windows, records and attempts of these item periods, and the deliveries that "
    "go with them, whole; raw bodies among these are counted above."
)


@dataclass(frozen=True, slots=True)
class Pruning:
    """What a sweep did, or would do: rows by what they are, and what kept it from doing more."""

    pruned: Counter[str]
    older: OlderReplica | None
    elsewhere: bool
    dry_run: bool
    ever: bool

    @property
    def blocked(self) -> bool:
        """Whether it was to delete, and must not."""
        return self.older is not None and not self.dry_run


async def prune(engine: AsyncEngine, clock: Clock, settings: Settings, *, dry_run: bool) -> Pruning:
    """One sweep. Raises DatabaseUnavailable."""
    terms = Terms.of_days(settings.retention_days, settings.raw_retention_days)
    pruner = Pruner(engine, clock, terms, dry_run=dry_run)
    pruned = await pruner.sweep()
    ever = terms != Terms(None, None)
    return Pruning(pruned, pruner.older, pruner.elsewhere, dry_run, ever)


def describe(pruning: Pruning) -> list[str]:
    """What a sweep did, or would do, and why not more, in lines."""
    if not pruning.ever:
        return [_NEVER]
    pruned = pruning.pruned
    verb = "to be deleted" if pruning.dry_run else "deleted"
    lines = [f"{pruned[name]:,} {words}: {verb}" for name, words in _NAMES.items() if pruned[name]]
    if pruning.dry_run and pruned["item_periods"]:
        lines.append(NOT_COUNTED)
    if pruning.older is not None:
        lines.append(
            f"Nothing is deleted before {pruning.older.until:%Y-%m-%d %H:%M} UTC: replica "
            f"{pruning.older.name} of an older program was seen at work, and would bill again what "
            "was deleted."
        )
    elif pruning.elsewhere:
        lines.append(_ELSEWHERE)
    return lines or [_NOTHING]
