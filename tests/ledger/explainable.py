"""A ledger written row by row, for explanations of what booking and sending leave behind."""

import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import httpx
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from app import tables
from app.db import transaction
from app.ledger.explaining import ExplainingRepository
from app.ledger.explanation import Explanation, PeriodExplanation, explain
from app.ledger.selection import ItemSelection, SubjectSelection
from app.mapping.repository import MappingRepository
from app.mapping.snapshots import Snapshots
from app.stripe_client import STRIPE_VERSION, StripeClient
from tests.mapping.stripe_side import NOW, PERIOD_END, PERIOD_START, snapshot
from tests.stripe_client.bodies import summary

HOUR = timedelta(hours=1)
DAY = datetime(2026, 3, 9, tzinfo=UTC)


@dataclass
class Written:
    """Writes rows as they are named; what is not named is plain."""

    engine: AsyncEngine
    numbers: Any = field(default_factory=lambda: count(1))

    async def add(self, table: Any, **members: Any) -> int:
        """One row. Its id."""
        async with transaction(self.engine) as connection:
            row = await connection.execute(insert(table).values(**members).returning(table.c.id))
            return int(row.scalar_one())

    async def period(self, **members: Any) -> int:
        """March of si_1 on sub_1."""
        plain = {
            "subscription": "sub_1",
            "subscription_item": "si_1",
            "period_start": PERIOD_START,
            "period_end": PERIOD_END,
            "exact_numerator": 0,
            "exact_denominator": 1,
            "rounding": "half_up",
            "rounded_total": 0,
        }
        return await self.add(tables.item_periods, **{**plain, **members})

    async def record(self, period: int, at: datetime, wanted: int, **members: Any) -> int:
        """A record of si_1 that is reported, unless another state is named."""
        due = members.get("state") in ("due", "late")
        plain = {
            "item_period_id": period,
            "subscription": "sub_1",
            "subscription_item": "si_1",
            "timestamp": int(at.timestamp()),
            "wanted_quantity": wanted,
            "reported_quantity": 0 if "state" in members else wanted,
            "svix_id": "msg_record",
            "state": "reported",
            "due_at": at if due else None,
        }
        return await self.add(tables.usage_records, **{**plain, **members})

    async def window(
        self, start: datetime, value: object, record: int | None = None, **members: Any
    ) -> int:
        """An hour of tokens of customer-1: booked where a record is named, else parked."""
        groups = members.get("group_by", {})
        plain = {
            "meter": "tokens",
            "subject": "customer-1",
            "group_key": hashlib.sha256(repr(groups).encode()).digest()[:16],
            "group_by": groups,
            "window_start": start,
            "window_end": start + HOUR,
            "aggregation": "SUM",
            "value": value,
            "svix_id": f"msg_{next(self.numbers):04}",
            "message_at": start + 2 * HOUR,
            "state": "booked" if record else "parked",
            "reason": None if record else "no_meter_mapping",
            "usage_record_id": record,
            "scale_numerator": 1 if record else None,
            "scale_denominator": 1 if record else None,
            "amount_numerator": value if record else 0,
            "amount_denominator": 1,
        }
        return await self.add(tables.usage_windows, **{**plain, **members})

    async def attempt(self, record: int, quantity: int, **members: Any) -> int:
        """A POST that succeeded, unless something else is named."""
        number = next(self.numbers)
        plain = {
            "usage_record_id": record,
            "idempotency_key": f"key_{number}",
            "action": "set",
            "quantity": quantity,
            "started_at": DAY,
            "finished_at": DAY,
            "outcome": "succeeded",
            "http_status": 200,
            "request_id": f"req_{number}",
            "worker": "tests",
        }
        return await self.add(tables.attempts, **{**plain, **members})

    async def carry(self, origin: int, destination: int, quantity: int) -> int:
        """Units that went from one record to another."""
        return await self.add(
            tables.carries,
            from_record_id=origin,
            to_record_id=destination,
            quantity=quantity,
            svix_id="msg_late",
            carried_at=PERIOD_END + 2 * HOUR,
        )

    async def snapshot(self, *items: Any, name: str = "sub_1") -> None:
        """What Stripe last said of a subscription."""
        said = snapshot(*items, name=name)

        async def read(_: str) -> Any:
            return said

        await Snapshots(self.engine, read, lookups=self.engine, size=10).refresh(name)

    @property
    def mappings(self) -> MappingRepository:
        """The mappings of this database."""
        return MappingRepository(self.engine)


class SummarisingStripe:
    """Answers the summaries of an item with `totals`, by the start of their periods."""

    def __init__(self, totals: dict[datetime, int] | None = None, *, status: int = 200) -> None:
        self.totals = totals or {}
        self.status = status
        self.asked: list[str] = []

    def client(self) -> StripeClient:
        """A client that talks to it."""
        return StripeClient(api_key="sk_test_1", transport=httpx.MockTransport(self._answer))

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request.url.path)
        summaries = [
            summary(
                subscription_item=request.url.path.split("/")[3],
                total_usage=total,
                invoice="in_1",
                period={
                    "start": int(start.timestamp()),
                    "end": int(PERIOD_END.timestamp()),
                },
            )
            for start, total in self.totals.items()
        ]
        body: dict[str, Any] = {"object": "list", "data": summaries, "has_more": False}
        if self.status != 200:
            body = {"error": {"type": "api_error", "message": "Something broke"}}
        headers = {"Stripe-Version": STRIPE_VERSION, "Request-Id": "req_s"}
        return httpx.Response(self.status, json=body, headers=headers)


class Asking:
    """Explains with a Stripe behind it."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.repository = ExplainingRepository(engine)
        self.stripe = SummarisingStripe()
        self.client: StripeClient | None = None

    async def item(
        self,
        when: datetime = NOW,
        *,
        name: str = "si_1",
        now: datetime = NOW,
        after: int | None = None,
    ) -> PeriodExplanation:
        page = await self.page(ItemSelection(name, when, after), now=now)
        [one] = page.periods
        return one

    async def page(
        self, selection: ItemSelection | SubjectSelection, *, now: datetime = NOW, ask: bool = True
    ) -> Explanation:
        return await explain(self.repository, self.client, selection, now=now, ask_stripe=ask)
