"""What was executed, and how often each operation was called."""

from collections import Counter, deque
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple


class ExecutedCall(NamedTuple):
    """One executed usage-record call. A tuple, because benchmarks make millions of them."""

    subscription_item: str
    subscription: str
    timestamp: int
    period_start: int
    quantity: int
    action: str
    idempotency_key: str | None
    request_id: str
    at: int


class Ledger:
    """Every executed usage-record call, in order. Replays are not executed and not here.

    A call weighs some 0.5 kB, so a simulation of millions keeps the newest only (`keep`).
    """

    def __init__(self) -> None:
        self._calls: deque[ExecutedCall] = deque()
        self._forgotten = 0

    def __len__(self) -> int:
        """How many calls were executed, forgotten ones included."""
        return self._forgotten + len(self._calls)

    def add(self, call: ExecutedCall, *, keep: int = 0) -> None:
        """Write down an executed call; of all calls only the newest `keep` stay (0: all)."""
        self._calls.append(call)
        while keep and len(self._calls) > keep:
            self._calls.popleft()
            self._forgotten += 1

    def after(self, number: int) -> Iterator[tuple[int, ExecutedCall]]:
        """The calls after the `number`-th, each with its own number, counted from one."""
        first = max(number - self._forgotten, 0)
        kept = islice(self._calls, first, None)
        return enumerate(kept, start=self._forgotten + first + 1)


class Traffic:
    """How many requests of each operation were received, and how they were answered."""

    def __init__(self) -> None:
        self.answered: Counter[tuple[str, int]] = Counter()
        self.replayed: Counter[str] = Counter()
        self.cut: Counter[str] = Counter()

    def by_operation(self) -> dict[str, dict[str, object]]:
        """Operation -> `total`, `by_status`, `replayed`, `cut` (connections without an answer)."""
        names = {name for name, _ in self.answered} | set(self.cut)
        return {name: self._of(name) for name in sorted(names)}

    def _of(self, name: str) -> dict[str, object]:
        statuses = {str(s): n for (op, s), n in sorted(self.answered.items()) if op == name}
        return {
            "total": sum(statuses.values()) + self.cut[name],
            "by_status": statuses,
            "replayed": self.replayed[name],
            "cut": self.cut[name],
        }
