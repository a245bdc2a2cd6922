"""A billing period that ends while the program runs: what was used last is on its bill."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from app.commands.outgoing import OutgoingWindow, message_id, report_body
from tests.acceptance.bridge import Bridge
from tests.acceptance.processes import until
from tests.acceptance.sender import METER, Message, Sender
from tests.dispatch.stripe_side import StripeSide
from tests.openmeter_side.serving import serving
from tests.openmeter_side.side import OpenMeterSide

pytestmark = pytest.mark.acceptance

SECOND = timedelta(seconds=1)
PRICE = "price_daily"
MAPPINGS = f"""
meters: [{{meter: {METER}, price: {PRICE}}}]
subjects: [{{subject: customer-1, subscription: sub_daily}}]
"""
KEY = "om_a-key-of-the-tests"


def told(start: datetime, end: datetime, value: int) -> Message:
    """A report on one window."""
    window = OutgoingWindow(Decimal(value), start, end)
    body = report_body(meter=METER, subject="customer-1", windows=[window])
    return Message(message_id(), body, ())


def subscribed(stripe: StripeSide, end: datetime) -> Callable[[], list[int]]:
    """A subscription whose period ends then; returns what tells its totals, newest period first."""
    stripe.control("PATCH", "/settings", {"grace_seconds": 300})
    stripe.control("POST", "/prices", {"id": PRICE, "interval": "day"})
    stripe.control(
        "POST",
        "/subscriptions",
        {
            "id": "sub_daily",
            "customer": "cus_1",
            "start_date": int((end - timedelta(days=1)).timestamp()),
            "items": [{"id": "si_daily", "price": PRICE}],
        },
    )

    def billed() -> list[int]:
        """The totals of the item's periods, newest first."""
        [item] = [
            found
            for found in stripe.control("GET", "/totals")["items"]
            if found["subscription_item"] == "si_daily"
        ]
        return [period["total_usage"] for period in item["periods"]]

    return billed


async def test_the_last_seconds_of_a_period_and_a_window_over_its_end(bridge: Bridge) -> None:
    stripe = bridge.stripe
    side = OpenMeterSide(api_key=KEY)
    side.meter(METER)
    await bridge.apply_mappings(MAPPINGS)
    with serving(side) as address:
        program, url = await bridge.serve(
            OPENMETER_API_URL=address, OPENMETER_API_KEY=KEY, PERIOD_END_FLUSH="15"
        )
        # Only now, so that it does not end while the program starts.
        end = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=20)
        billed = subscribed(stripe, end)
        for seconds, value in ((-90, 5), (-30, 7), (-1, 20), (1, 300)):
            side.event(METER, "customer-1", end + seconds * SECOND, value)
        sender = Sender([f"{url}/webhooks/openmeter"])
        await sender.deliver([told(end - 120 * SECOND, end - 60 * SECOND, 5)])

        async def at_the_end() -> bool:
            return billed()[-1] == 32

        await until(at_the_end, "what was used up to the last second is billed")
        await sender.deliver([told(end - 60 * SECOND, end + 2 * SECOND, 327)])

        async def divided() -> bool:
            return billed() == [300, 32]

        await until(divided, "each part of the window is billed in its own period")
    await bridge.drained()
    assert "Traceback" not in program.output()
    assert KEY not in program.output()
    windows = await bridge.rows(
        "select source, state, value from usage_windows order by window_start, window_end"
    )
    assert [(row["source"], row["state"], row["value"]) for row in windows] == [
        ("webhook", "booked", 5),
        ("part", "booked", 27),
        ("webhook", "covered", 327),
        ("part", "booked", 300),
    ]
    assert await bridge.rows("select 1 from carries") == []
