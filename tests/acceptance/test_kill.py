"""kill -9 at each of the commits, before and after: nothing lost, nothing doubled."""

import asyncio

import pytest

from tests.acceptance.bridge import Bridge
from tests.acceptance.processes import KILLED
from tests.acceptance.sender import Message, Sender, Usage, message

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
