"""What OpenMeter's API answers, as frozen values. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Literal

WindowSize = Literal["MINUTE", "HOUR", "DAY"]


@dataclass(frozen=True, slots=True)
class QueryRow:
    """The value of one subject and group in one window. Empty windows have no row.

    A window that the query's bounds cut keeps its full bounds, but holds only the part inside them.
    """

    value: Decimal
    """As sent, digit by digit."""
    window_start: datetime
    window_end: datetime
    """Both aware, UTC; the end is exclusive."""
    subject: str
    group_by: Mapping[str, str]
    """Exactly the names that were asked for; an absent value is the empty string."""


@dataclass(frozen=True, slots=True)
class Customer:
    """A customer, without personal data."""

    id: str
    key: str | None
    subject_keys: tuple[str, ...]
    """The subjects whose usage is this customer's."""
