"""kill -9 at each of the commits, before and after: nothing lost, nothing doubled."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from tests.acceptance.bridge import MAPPINGS, Bridge
from tests.acceptance.processes import KILLED
from tests.acceptance.sender import Message, Sender, Usage, message
from tests.dispatch.stripe_side import PRICE

pytestmark = pytest.mark.acceptance

# Right before a POST leaves is right after the claim: one point.
POINTS = [
    *((step, moment) for step in ("receive", "book", "claim") for moment in ("before", "after")),
    ("post", "after"),
    ("write", "before"),
    ("write", "after"),
]


def a_day() -> list[Message]:
    """Two subjects on one item, groups in one window, several hours, and a correction."""
    return [
        message(Usage(1, 0, 500), Usage(1, 0, 10_000, "gpt-3")),
        message(Usage(2, 0, 7)),
        message(Usage(3, 0, 40), Usage(3, 1, 41)),
        message(Usage(1, 1, 90)),
        message(Usage(3, 0, 39)),
        message(Usage(4, 5, 3)),
    ]


@pytest.mark.parametrize(("step", "moment"), POINTS, ids=["-".join(point) for point in POINTS])
async def test_killed_at(bridge: Bridge, step: str, moment: str) -> None:
    # Where it dies while booking, it dies as a new installation: nothing read from Stripe yet.
    await bridge.know_everything(snapshots=step not in ("receive", "book"))
    service, address = await bridge.serve(crash=(step, moment))
    sender = Sender([f"{address}/webhooks/openmeter"])
    sending = asyncio.create_task(sender.deliver(a_day()))
    assert await service.ended() == KILLED
    await bridge.serve(port=int(address.rpartition(":")[2]))
    await sending
    await bridge.comes_out_even(sender)


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_killed_while_it_carries(bridge: Bridge, moment: str) -> None:
    """What came too late for its period is in the one that is open now, once."""
    now = datetime.now(UTC)
    began = int((now - timedelta(days=75)).timestamp())
    bridge.stripe.control(
        "POST",
        "/subscriptions",
        {
            "id": "sub_6",
            "customer": "cus_1",
            "start_date": began,
            "items": [{"id": "si_6", "price": PRICE}],
        },
    )
    await bridge.apply_mappings(MAPPINGS + "  - {subject: customer-6, subscription: sub_6}\n")
    service, address = await bridge.serve(crash=("carry", moment))
    sender = Sender([f"{address}/webhooks/openmeter"])
    two_months_ago = -24 * 55
    late = [message(Usage(6, two_months_ago + hour, 10 + hour)) for hour in range(3)]
    late.append(message(Usage(6, two_months_ago, 4)))
    sending = asyncio.create_task(sender.deliver(late))
    assert await service.ended() == KILLED
    await bridge.serve(port=int(address.rpartition(":")[2]))
    await sending
    await bridge.drained()
    [item] = [
        item
        for item in bridge.stripe.control("GET", "/totals")["items"]
        if item["subscription_item"] == "si_6"
    ]
    current, *closed = item["periods"]
    assert current["records"] == {str(current["start"] + 1): 4 + 11 + 12}
    assert len(closed) == 2
    assert not any(period["records"] for period in closed)
    records = await bridge.rows("select state, count(*) as n from usage_records group by 1")
    assert {row["state"] for row in records} == {"reported"}
