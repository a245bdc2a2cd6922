"""The demo's Stripe account in the sandbox: set up and disturbed through the sandbox's control API,
read back through Stripe's own.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.commands.demo_comparison import FaultSeen
from app.commands.demo_http import LocalApi
from app.commands.demo_scenario import (
    ACME_CALLS,
    ACME_TOKENS,
    ADDONS,
    CYCLE_BEGAN,
    GLOBEX_BEGAN,
    GLOBEX_CALLS,
    GLOBEX_GPU,
    INITECH_TOKENS,
    BilledItem,
)

SUBSCRIPTIONS = ("sub_acme", "sub_globex", "sub_initech")
PAGE = 10
_WRITE = "create_usage_record"


@dataclass(frozen=True, slots=True)
class DemoAccount:
    """The account. `control` and `stripe` are the two APIs of one sandbox."""

    control: LocalApi
    stripe: LocalApi

    def set_up(self, midnight: datetime) -> str:
        """Create customers, prices and subscriptions. Returns in words what there is now."""
        addons = [f"price_addon_{number}" for number in range(1, ADDONS + 1)]
        for name in ("acme", "globex", "initech"):
            self._create("/customers", id=f"cus_{name}", name=name)
        self._create("/prices", id="price_tokens", nickname="1,000 prompt tokens")
        self._create("/prices", id="price_api_calls", lookup_key="api_calls")
        self._create("/prices", id="price_gpu", metadata={"openmeter": "gpu_hours"})
        for price in addons:
            self._create("/prices", id=price)
        began = int((midnight - CYCLE_BEGAN).timestamp())
        acme = self._subscribe("acme", [ACME_TOKENS, ACME_CALLS], start_date=began)
        extra = [BilledItem(f"si_initech_{price}", "sub_initech", price) for price in addons]
        self._subscribe("initech", [*extra, INITECH_TOKENS], start_date=began)
        self._subscribe(
            "globex",
            [GLOBEX_GPU, GLOBEX_CALLS],
            start_date=int((midnight - GLOBEX_BEGAN).timestamp()),
            billing_cycle_anchor=acme["current_period_end"],  # its first period is a part of one
        )
        return f"3 customers, {3 + ADDONS} prices, 3 subscriptions"

    def disturb(self) -> None:
        """Have Stripe execute a write of acme's and cut the line, and refuse one of initech's."""
        for subscription, fault in (
            ("sub_acme", {"kind": "cut", "when": "after_execution"}),
            ("sub_initech", {"kind": "rate_limited", "retry_after": 1}),
        ):
            match = {"operation": _WRITE, "subscription": subscription}
            self._create("/faults", **fault, match=match)

    def faults_seen(self) -> list[FaultSeen]:
        """What came of the faults, by the sandbox's own count of requests."""
        counts = self.control.call("GET", "/_sandbox/requests")["operations"].get(_WRITE, {})
        limited = counts.get("by_status", {}).get("429", 0)
        return [
            FaultSeen("a connection cut after Stripe had executed", counts.get("cut") == 1),
            FaultSeen(
                "its retry, answered from the idempotency key", counts.get("replayed", 0) >= 1
            ),
            FaultSeen("a 429 of Stripe, waited out", limited == 1),
        ]

    def held(self) -> dict[str, int]:
        """What every item holds: its open period, and what should not be there in closed ones."""
        return {
            item: sum(summary["total_usage"] for summary in self._summaries(item))
            for subscription in SUBSCRIPTIONS
            for item in self._items(subscription)
        }

    def _items(self, subscription: str) -> Iterator[str]:
        after = ""
        while True:
            page = self._list(
                f"/v1/subscription_items?subscription={subscription}&limit={PAGE}{after}"
            )
            for item in page["data"]:
                yield item["id"]
            if not page["has_more"]:
                return
            after = f"&starting_after={page['data'][-1]['id']}"

    def _summaries(self, item: str) -> list[dict[str, Any]]:
        data: list[dict[str, Any]] = self._list(
            f"/v1/subscription_items/{item}/usage_record_summaries"
        )["data"]
        return data

    def _list(self, path: str) -> dict[str, Any]:
        page: dict[str, Any] = self.stripe.call("GET", path)
        return page

    def _subscribe(self, name: str, items: list[BilledItem], **how: int) -> Any:
        drafts = [{"id": item.id, "price": item.price} for item in items]
        return self._create(
            "/subscriptions", id=f"sub_{name}", customer=f"cus_{name}", items=drafts, **how
        )

    def _create(self, path: str, **draft: object) -> Any:
        return self.control.call("POST", f"/_sandbox{path}", draft)
