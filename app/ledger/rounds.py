"""Rounds: what a batch of booking may take, and what came of it."""

import operator
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from app.ledger.taking import NOTHING, Waiting

# A transaction stays far below the statement timeout, whatever has piled up: 100 deliveries of
# 2,500 windows each took longer than that, and would have been tried for ever.
DELIVERIES_PER_BATCH: Final = 250
BYTES_PER_BATCH: Final = 1024 * 1024
WINDOWS_PER_BATCH: Final = 2_000


@dataclass(frozen=True, slots=True)
class Claim:
    """What a batch takes: at most so many, or only those named.

    `regardless` of what is to be woken before.
    """

    deliveries: int = DELIVERIES_PER_BATCH
    windows: int = WINDOWS_PER_BATCH
    only_delivery: int | None = None
    only_windows: Sequence[int] | None = None
    regardless: bool = True


@dataclass(frozen=True, slots=True)
class Round:
    """What one round did. `subscriptions` must be read from Stripe before more can be done.

    `more`: it took as much as it may, so there may be more. `waiting`: what it found beside.
    """

    deliveries: int = 0
    windows: int = 0
    subscriptions: frozenset[str] = frozenset()
    parked: Counter[str] = field(default_factory=Counter)
    more: bool = False
    waiting: Waiting = NOTHING

    @property
    def idle(self) -> bool:
        """Whether there was nothing to do."""
        return self.deliveries == 0 and self.windows == 0

    def __add__(self, other: "Round") -> "Round":
        return Round(
            self.deliveries + other.deliveries,
            self.windows + other.windows,
            self.subscriptions | other.subscriptions,
            self.parked + other.parked,
            self.more or other.more,
            Waiting(*map(operator.or_, self.waiting, other.waiting)),
        )
