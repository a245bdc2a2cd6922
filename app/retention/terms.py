"""How long what is kept for. Pure."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Terms:
    """How long windows with their records, and raw bodies with attempts, are kept; None: for ever.

    `ledger` is counted from the end of the billing period, or from the receipt of a delivery.
    """

    ledger: timedelta | None
    raw: timedelta | None

    @classmethod
    def of_days(cls, ledger: int, raw: int) -> "Terms":
        """From days; 0 is for ever."""
        return cls(timedelta(days=ledger) if ledger else None, timedelta(days=raw) if raw else None)


class Place(NamedTuple):
    """Up to where a sweep has looked: the ids of two levels, as an item period and its record."""

    outer: int = 0
    inner: int = 0


@dataclass(frozen=True, slots=True)
class Swept:
    """What one batch did: where the next one begins (None: the sweep is through), rows by table."""

    next: Place | None
    pruned: dict[str, int]


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch of a sweep: at most `limit` rows behind `after`; `before` is what is old enough."""

    now: datetime
    before: datetime
    after: Place
    limit: int
