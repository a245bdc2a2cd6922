"""Stripe's side: what its executed calls come to. Plain arithmetic on the sandbox's ledger."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.chaos.account import Item


@dataclass(frozen=True, slots=True)
class Call:
    """An executed usage-record call; `period_start` is of the period that took it."""

    item: str
    period_start: int
    timestamp: int
    quantity: int
    action: str
    key: str | None

    @staticmethod
    def of(entry: Mapping[str, Any]) -> "Call":
        """A call as the sandbox's control API shows it."""
        return Call(
            entry["subscription_item"],
            entry["period_start"],
            entry["timestamp"],
            entry["quantity"],
            entry["action"],
            entry["idempotency_key"],
        )


def standing(calls: Iterable[Call], items: Sequence[Item]) -> dict[str, dict[int, int]]:
    """Item -> start of a period -> the units that stand there after all calls, in their order."""
    records: dict[str, dict[int, dict[int, int]]] = defaultdict(lambda: defaultdict(dict))
    for call in calls:
        held = records[call.item][call.period_start]
        before = held.get(call.timestamp, 0) if call.action == "increment" else 0
        held[call.timestamp] = before + call.quantity
    combine = {item.id: sum if item.aggregate == "sum" else max for item in items}
    return {
        item: {start: combine[item](held.values()) for start, held in by_period.items()}
        for item, by_period in records.items()
    }


def executed_twice(calls: Iterable[Call]) -> int:
    """How many calls were executed under a key that was executed before."""
    counts = Counter(call.key for call in calls)
    return sum(count - 1 for key, count in counts.items() if key is not None)
