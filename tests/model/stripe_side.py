"""A sandbox in-process, the way to it, and what can happen on that way."""

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import Any, Final

import httpx
from pydantic import TypeAdapter

from app.sandbox.drafts import CustomerDraft, ItemDraft, PriceDraft, SubscriptionDraft
from app.sandbox.fault_kinds import AnyFault
from app.sandbox.objects import AggregateUsage
from app.sandbox.periods import Interval
from app.sandbox.sandbox import Sandbox
from app.sandbox.server import SandboxApp
from app.sandbox.summaries import summaries
from tests.model.billing import DAY, Subscription
from tests.sandbox.transport import SandboxTransport

PRICES: Final = ("price_a", "price_b", "price_max")
_FAULT: Final[TypeAdapter[AnyFault]] = TypeAdapter(AnyFault)

POST, GET = "create_usage_record", "retrieve_subscription"
CUTS: Final[list[dict[str, Any]]] = [
    {"kind": "cut", "when": when, "reset": reset}
    for when in ("before_execution", "after_execution", "mid_answer")
    for reset in (False, True)
]
LIMITS: Final[list[dict[str, Any]]] = [
    {"kind": "rate_limited", "reason": reason, "retry_after": retry_after}
    for reason in (
        "global-rate",
        "global-concurrency",
        "endpoint-rate",
        "endpoint-concurrency",
        "resource-specific",
    )
    for retry_after in (None, 2)
]
ANSWERS: Final[list[dict[str, Any]]] = [
    {"kind": "lock_timeout"},
    {"kind": "key_in_use"},
    {"kind": "stored_error", "executed": False},
    {"kind": "stored_error", "executed": True},
    {"kind": "garbage"},
    {"kind": "garbage", "status": 502, "content_type": "text/html"},
    {"kind": "status", "status": 500},
    {"kind": "status", "status": 503, "retry_after": 7},
    {"kind": "version_echo", "version": "2025-03-31.basil"},
    {"kind": "headers", "headers": {"Request-Id": None}},
]
TIMEOUTS: Final[list[dict[str, Any]]] = [
    {"kind": "timeout", "executed": False},
    {"kind": "timeout", "executed": True},
]
FAULTS: Final = [*CUTS, *LIMITS, *ANSWERS, *TIMEOUTS]
READ_FAULTS: Final = [*CUTS[:4], LIMITS[0], *ANSWERS[4:8]]


@dataclass
class Stall:
    """The connection goes silent at the `number`-th POST, before or after it was executed."""

    number: int
    executed: bool
    reached: asyncio.Event


class StripeSide:
    """One account, started over for each example."""

    def __init__(self, app: SandboxApp) -> None:
        self.sandbox: Sandbox = app.state.sandbox
        self.stall: Stall | None = None
        self._app = app
        self._timeouts: list[tuple[int, bool]] = []  # (POSTs that pass first, executed)
        self._in_flight: Counter[str] = Counter()
        self._most_in_flight = 0

    def transport(self) -> httpx.AsyncBaseTransport:
        """The way to the account."""
        return _Way(self, SandboxTransport(self._app))

    def begin(self, subscriptions: list[Subscription], now: int, *, grace: int) -> None:
        """Start over with some subscriptions of an item for each price."""
        self.sandbox.reset()
        self.sandbox.settings.limit_per_second = 0
        self.sandbox.settings.grace_seconds = grace
        self.heal()
        self.move(now)
        account = self.sandbox.account
        account.create_customer(CustomerDraft(id="cus_1"))
        days = {subscription.length // DAY for subscription in subscriptions}
        [count] = days
        for price in PRICES:
            kind = AggregateUsage.MAX if price == "price_max" else AggregateUsage.SUM
            account.create_price(
                PriceDraft(
                    id=price, interval=Interval.DAY, interval_count=count, aggregate_usage=kind
                )
            )
        for subscription in subscriptions:
            account.create_subscription(
                SubscriptionDraft(
                    id=subscription.name,
                    customer="cus_1",
                    start_date=subscription.anchor,
                    items=[
                        ItemDraft(id=item_of(subscription.name, price), price=price)
                        for price in PRICES
                    ],
                )
            )

    def move(self, now: int) -> None:
        """Move the clock."""
        self.sandbox.move_clock(now, frozen=True)

    def inject(self, fault: dict[str, Any], *, skip: int, operation: str) -> None:
        """Let a fault meet one request, after some that pass."""
        if fault["kind"] == "timeout":
            self._timeouts.append((skip, fault["executed"]))
            return
        whole = fault | {"match": {"operation": operation}, "skip": skip}
        self.sandbox.faults.inject(_FAULT.validate_python(whole))

    def heal(self) -> None:
        """Take all faults away."""
        self.sandbox.faults.clear()
        self._timeouts.clear()
        self.stall = None
        self._in_flight.clear()

    def standing(self) -> dict[str, dict[int, dict[int, int]]]:
        """What every item holds: item -> number of the period -> second -> quantity."""
        for name in ("sub_1", "sub_2"):
            self.sandbox.account.subscription(name)  # its periods come up to the present
        return {
            item.id: {
                found.number: dict(found.records) for found in summaries(item, subscription, price)
            }
            for item, subscription, price in self.sandbox.account.items_ever()
        }

    def totals(self) -> dict[str, dict[int, int]]:
        """What Stripe bills: item -> number of the period -> units."""
        return {
            item.id: {found.number: found.total_usage for found in summaries(item, subscription, p)}
            for item, subscription, p in self.sandbox.account.items_ever()
        }

    async def post(self, request: httpx.Request, way: SandboxTransport) -> httpx.Response:
        """Carry a POST there and back. At most one is in flight per subscription."""
        item = request.url.path.split("/")[3]
        lane = self.sandbox.account.item(item).subscription
        self._in_flight[lane] += 1
        assert self._in_flight[lane] == 1, f"two POSTs in flight on {lane}"
        try:
            await asyncio.sleep(0)
            stall = self.stall
            if stall is not None and stall.number == 0:
                if stall.executed:
                    await way.handle_async_request(request)
                stall.reached.set()
                await asyncio.Event().wait()
            if stall is not None:
                stall.number -= 1
            executed = self._times_out()
            if executed is False:
                raise httpx.ReadTimeout("nothing came back", request=request)
            answer = await way.handle_async_request(request)
            if executed:
                raise httpx.ReadTimeout("nothing came back", request=request)
            await asyncio.sleep(0)
            return answer
        finally:
            self._in_flight[lane] -= 1

    def _times_out(self) -> bool | None:
        """Whether this POST is executed before it times out; None: it does not."""
        due = [entry for entry in self._timeouts if entry[0] == 0]
        self._timeouts = [(skip - 1, executed) for skip, executed in self._timeouts if skip > 0]
        return due[0][1] if due else None


class _Way(httpx.AsyncBaseTransport):
    def __init__(self, side: StripeSide, way: SandboxTransport) -> None:
        self._side = side
        self._way = way

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            return await self._side.post(request, self._way)
        return await self._way.handle_async_request(request)


def item_of(subscription: str, price: str) -> str:
    """The item of a subscription that has a price."""
    return f"si_{subscription.removeprefix('sub_')}{price.removeprefix('price_')}"
