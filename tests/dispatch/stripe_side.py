"""The sandbox as tests see it from behind: objects, faults, and what was executed."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

KEY = "sk_test_sandbox"
PRICE = "price_tokens"
POST = {"operation": "create_usage_record"}
# Well inside the current period of every subscription made here, and in nobody's future.
STARTED = timedelta(days=10)


@dataclass(frozen=True)
class StripeSide:
    """A sandbox on a real port. One HTTP connection a call, so that it may be restarted."""

    url: str

    def control(self, method: str, path: str, body: object = None) -> Any:
        """Call the control API, which must agree."""
        answer = httpx.request(
            method, f"{self.url}/_sandbox{path}", json=body, timeout=20, trust_env=False
        )
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None

    def start_over(self) -> None:
        """Forget everything; no rate limit."""
        self.control("POST", "/reset")
        self.control("PUT", "/keys", {"key": KEY})
        self.control("PATCH", "/settings", {"limit_per_second": 0})

    def subscribe(self, numbers: Iterable[int]) -> None:
        """Subscriptions `sub_N` with one item `si_N` each, begun ten days ago."""
        start = int((datetime.now(UTC) - STARTED).timestamp())
        self.control("POST", "/customers", {"id": "cus_1"})
        self.control("POST", "/prices", {"id": PRICE})
        for number in numbers:
            self.control(
                "POST",
                "/subscriptions",
                {
                    "id": f"sub_{number}",
                    "customer": "cus_1",
                    "start_date": start,
                    "items": [{"id": f"si_{number}", "price": PRICE}],
                },
            )

    def set_threshold(self, number: int) -> None:
        """From now on `sub_N` takes nothing but increments."""
        self.control("PUT", f"/subscriptions/sub_{number}/thresholds", {"amount_gte": 10**9})

    def inject(self, kind: str, **fault: object) -> str:
        """Inject a fault into the writing of usage records; returns its id."""
        injected = self.control("POST", "/faults", {"kind": kind, "match": POST} | fault)
        identifier: str = injected["id"]
        return identifier

    def met(self, fault: str) -> int:
        """How many requests a fault has met."""
        [found] = [entry for entry in self.control("GET", "/faults") if entry["id"] == fault]
        count: int = found["met"]
        return count

    def heal(self) -> None:
        """Take all faults away."""
        self.control("DELETE", "/faults")

    def ledger(self) -> list[dict[str, Any]]:
        """The executed usage-record calls, in order."""
        calls: list[dict[str, Any]] = self.control("GET", "/ledger")["calls"]
        return calls

    def quantities(self, item: str | None = None) -> list[int]:
        """The quantities of the executed calls, in order."""
        calls = self.ledger()
        return [c["quantity"] for c in calls if item in (None, c["subscription_item"])]

    def standing(self) -> dict[str, dict[int, int]]:
        """What stands at Stripe: item -> timestamp -> quantity, items without any left out."""
        return {
            item["subscription_item"]: {
                int(at): quantity
                for period in item["periods"]
                for at, quantity in period["records"].items()
            }
            for item in self.control("GET", "/totals")["items"]
            if any(period["records"] for period in item["periods"])
        }

    def totals(self) -> dict[str, int]:
        """What the current period of each item adds up to."""
        return {
            item["subscription_item"]: item["periods"][0]["total_usage"]
            for item in self.control("GET", "/totals")["items"]
        }

    def posts(self) -> dict[str, int]:
        """The answers to usage-record calls so far: status -> count, and `cut`."""
        operations = self.control("GET", "/requests")["operations"]
        count = operations.get("create_usage_record", {"by_status": {}, "cut": 0})
        return {**count["by_status"], "cut": count["cut"]}
