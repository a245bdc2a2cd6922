"""How long it took: from a fault's end (or its beginning) until the way goes on."""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

POLL = 0.1
PATIENCE = 300.0


@dataclass(slots=True)
class Recoveries:
    """Faults by kind, the requests that they met, and the seconds until all was well again."""

    injected: Counter[str] = field(default_factory=Counter)
    met: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    never: list[str] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    waiting: int = 0

    async def until(
        self, kind: str, well: Callable[[], Awaitable[object]], *, since: float, what: str
    ) -> None:
        """Look again and again until all is well; `since` is a monotonic time."""
        self.waiting += 1
        try:
            while not await well():
                if time.monotonic() - since > PATIENCE:
                    self.never.append(f"{kind}: not within {PATIENCE:.0f} s {what}")
                    return
                await asyncio.sleep(POLL)
            self.seconds[kind].append(time.monotonic() - since)
        finally:
            self.waiting -= 1
