"""The Stripe account of a figure: subscriptions in the sandbox, and the mappings that name them."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.commands.demo_http import LocalApi
from bench.traffic import METER, subject_name

PRICE = "price_api_calls"
_WRITE = "create_usage_record"


@dataclass(frozen=True, slots=True)
class Calls:
    """Calls that the sandbox has seen so far; but for `total` only of usage records."""

    total: int
    executed: int
    limited: int


@dataclass(frozen=True, slots=True)
class Account:
    """Who is billed for what: subject -> subscription; each subscription has one item.

    `control` is the sandbox's control API.
    """

    control: LocalApi
    subscriptions: Mapping[str, str]

    def set_up(self, since: datetime) -> None:
        """Create all of it. All subscriptions began at `since`."""
        self._create("/prices", id=PRICE)
        start = int(since.timestamp())
        for name in sorted(set(self.subscriptions.values())):
            customer = f"cus_{name}"
            self._create("/customers", id=customer)
            items = [{"id": item_of(name), "price": PRICE}]
            self._create(
                "/subscriptions", id=name, customer=customer, start_date=start, items=items
            )

    def mapping_file(self, *, record_per: str = "window") -> str:
        """The mapping file that names them."""
        lines = ["meters:", f"  - {{meter: {METER}, price: {PRICE}, record_per: {record_per}}}"]
        lines.append("subjects:")
        lines += [
            f"  - {{subject: {subject}, subscription: {subscription}}}"
            for subject, subscription in self.subscriptions.items()
        ]
        return "\n".join(lines) + "\n"

    def change(self, **settings: int) -> None:
        """Change settings of the sandbox: limits, latencies."""
        self.control.call("PATCH", "/_sandbox/settings", settings)

    def inject(self, **fault: object) -> None:
        """Have the sandbox do harm to usage-record calls."""
        self._create("/faults", match={"operation": _WRITE}, **fault)

    def heal(self) -> None:
        """Take all faults away."""
        self.control.call("DELETE", "/_sandbox/faults")

    def calls(self) -> Calls:
        """How many calls there were."""
        operations = self.control.call("GET", "/_sandbox/requests")["operations"]
        counts = operations.get(_WRITE, {})
        by_status = counts.get("by_status", {})
        return Calls(
            sum(operation["total"] for operation in operations.values()),
            by_status.get("200", 0) - counts.get("replayed", 0),
            by_status.get("429", 0),
        )

    def held(self) -> Counter[str]:
        """What Stripe holds: item -> units, in all periods."""
        items: list[dict[str, Any]] = self.control.call("GET", "/_sandbox/totals")["items"]
        return Counter(
            {
                item["subscription_item"]: sum(p["total_usage"] for p in item["periods"])
                for item in items
            }
        )

    def owed(self, by_subject: Mapping[str, int]) -> Counter[str]:
        """The same as it must be: item -> units."""
        owed: Counter[str] = Counter()
        for subject, amount in by_subject.items():
            owed[item_of(self.subscriptions[subject])] += amount
        return owed

    def _create(self, path: str, **draft: object) -> None:
        self.control.call("POST", f"/_sandbox{path}", draft)


def item_of(subscription: str) -> str:
    """The id of a subscription's only item."""
    return f"si_{subscription}"


def one_each(subjects: int) -> dict[str, str]:
    """A subscription for every subject."""
    return {subject_name(number): f"sub_{number:05d}" for number in range(subjects)}
