"""Billing periods end at the sandbox: what comes late is in the invoice that the rules say."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from pydantic import SecretStr
from rich.console import Console
from sqlalchemy.engine import URL

from app.bootstrap import Services, services
from app.commands.draining import drain
from app.commands.outgoing import OutgoingWindow, message_id, report_body
from app.config import Settings
from app.inbox.delivery import Delivery
from app.mapping.file import from_yaml, to_mappings
from tests.acceptance.processes import until
from tests.dispatch.stripe_side import KEY, PRICE, StripeSide

pytestmark = pytest.mark.acceptance

METER = "ai_prompt_tokens"
MAPPINGS = f"""
meters: [{{meter: {METER}, price: {PRICE}}}]
subjects: [{{subject: customer-1, subscription: sub_1}}]
"""
MARCH, APRIL, MAY = (datetime(2026, month, 1, tzinfo=UTC) for month in (3, 4, 5))
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)


class ShiftedClock:
    """Runs on like the machine's, from where it was put."""

    def __init__(self) -> None:
        self._shift = timedelta(0)

    def now(self) -> datetime:
        """The shifted time."""
        return datetime.now(UTC) + self._shift

    def put(self, at: datetime) -> None:
        """It is `at` now."""
        self._shift = at - datetime.now(UTC)


@dataclass
class Billing:
    """A bridge in this process, and the sandbox that it bills at; both have the same time."""

    built: Services
    clock: ShiftedClock
    stripe: StripeSide

    def put_clocks(self, at: datetime) -> None:
        """It is `at`, here and at Stripe."""
        self.clock.put(at)
        self.stripe.control("PUT", "/clock", {"at": int(at.timestamp())})

    async def tell(self, *usage: tuple[datetime, int]) -> None:
        """A webhook on hours that begin then; all is done when this returns."""
        windows = [OutgoingWindow(Decimal(value), at, at + HOUR, {}) for at, value in usage]
        body = report_body(meter=METER, subject="customer-1", windows=windows)
        now = self.clock.now()
        await self.built.inbox.accept(
            Delivery.of(message_id(), body, message_at=now, received_at=now)
        )
        await self.drained()

    async def drained(self) -> None:
        """Nothing is left to be booked, carried or sent."""
        left = await drain(self.built.engine, seconds=60, console=Console(quiet=True))
        assert left.drained, left

    def totals(self) -> dict[datetime, int]:
        """What Stripe says of each of si_1's months, by its beginning."""
        [item] = self.stripe.control("GET", "/totals?subscription_item=si_1")["items"]
        return {
            datetime.fromtimestamp(period["start"], UTC): period["total_usage"]
            for period in item["periods"]
        }

    async def owed(self) -> list[str]:
        """The details of what is held."""
        held = await self.built.status.records(
            state="held", reason=None, subscription=None, after=0, limit=10
        )
        assert {record.reason for record in held} <= {"credit_due"}
        return [record.detail or "" for record in held]


@asynccontextmanager
async def at_work(url: URL, stripe: StripeSide) -> AsyncIterator[Billing]:
    """The bridge books and sends; it is the 10th of March."""
    clock = ShiftedClock()
    settings = Settings(
        _env_file=None,
        stripe_api_key=SecretStr(KEY),
        stripe_api_base=stripe.url,
        stripe_rate_limit=500,
        dispatch_linger=0.05,
        late_policy="carry_forward",
    )
    stripe.start_over()
    clock.put(MARCH + timedelta(days=10))
    stripe.control("PUT", "/clock", {"at": int(clock.now().timestamp())})
    stripe.control("POST", "/customers", {"id": "cus_1"})
    stripe.control("POST", "/prices", {"id": PRICE})
    stripe.control(
        "POST",
        "/subscriptions",
        {
            "id": "sub_1",
            "customer": "cus_1",
            "start_date": int(MARCH.timestamp()),
            "items": [{"id": "si_1", "price": PRICE}],
        },
    )
    async with services(settings, url, clock=clock) as built:
        assert built.workshop is not None
        await built.mappings.replace(to_mappings(from_yaml(MAPPINGS)), now=clock.now())
        await built.inbox.start()
        booking = asyncio.create_task(built.workshop.booking.run())
        dispatcher = built.workshop.dispatcher
        sending = asyncio.create_task(dispatcher.run(grace=5))
        try:
            yield Billing(built, clock, stripe)
        finally:
            built.workshop.booking.stop()
            dispatcher.stop()
            await asyncio.gather(booking, sending)
            await built.inbox.stop()


async def test_three_months_with_late_usage(fresh_url: URL, sandbox_process: StripeSide) -> None:
    async with at_work(fresh_url, sandbox_process) as billing:
        await billing.tell((MARCH + HOUR, 100), (MARCH + 2 * HOUR, 100))
        assert billing.totals() == {MARCH: 200}

        # Stripe's grace: the last hour of March is billed in March.
        billing.stripe.control("PATCH", "/settings", {"grace_seconds": 300})
        billing.put_clocks(APRIL + MINUTE)
        await billing.tell((APRIL - HOUR, 7))
        assert billing.totals() == {APRIL: 0, MARCH: 207}

        # After it the attempt is refused, and the difference carried.
        billing.put_clocks(APRIL + 10 * MINUTE)
        await billing.tell((APRIL - 2 * HOUR, 5))
        assert billing.totals() == {APRIL: 5, MARCH: 207}
        await billing.tell((MARCH + HOUR, 103), (APRIL - HOUR, 8))
        assert billing.totals() == {APRIL: 9, MARCH: 207}
        await billing.tell((MARCH + HOUR, 96))
        assert billing.totals() == {APRIL: 2, MARCH: 207}

        # Long after.
        billing.put_clocks(APRIL + timedelta(days=20))
        await billing.tell((APRIL + HOUR, 50), (MARCH + 3 * HOUR, 11))
        assert billing.totals() == {APRIL: 63, MARCH: 207}

        # In May April is closed, too, and what is too much in March cannot come back.
        billing.put_clocks(MAY + timedelta(days=2))
        await billing.tell((APRIL + 2 * HOUR, 4), (MAY + HOUR, 1))
        assert billing.totals() == {MAY: 5, APRIL: 63, MARCH: 207}
        await billing.tell((MARCH + 3 * HOUR, 4))
        assert billing.totals() == {MAY: 1, APRIL: 63, MARCH: 207}
        assert await billing.owed() == ["3 units billed too much"]
        await billing.tell((MARCH + 3 * HOUR, 9))
        assert billing.totals() == {MAY: 3, APRIL: 63, MARCH: 207}
        assert await billing.owed() == []

        used = 96 + 100 + 8 + 5 + 9 + 50 + 4 + 1
        assert sum(billing.totals().values()) == used
        calls = billing.stripe.ledger()
        assert len({call["idempotency_key"] for call in calls}) == len(calls)


async def test_a_carry_that_stripe_could_not_take_in_its_month_is_billed_in_the_next(
    fresh_url: URL, sandbox_process: StripeSide
) -> None:
    async with at_work(fresh_url, sandbox_process) as billing:
        await billing.tell((MARCH + HOUR, 100))
        billing.put_clocks(APRIL + timedelta(days=29, hours=12))
        fault = billing.stripe.inject("status", status=503, times=None)
        message = asyncio.create_task(billing.tell((MARCH + 2 * HOUR, 5)))

        async def tried() -> bool:
            return billing.stripe.met(fault) > 0

        await until(tried, "Stripe was asked to take the carry")
        # Stripe still knows the key of what was asked: its refusal says that nothing counted.
        billing.put_clocks(MAY + 3 * HOUR)
        billing.stripe.heal()
        await message
        assert billing.totals() == {MAY: 5, APRIL: 0, MARCH: 100}
