"""Several processes on one database."""

import asyncio
import random
from collections import Counter

import pytest

from tests.acceptance.bridge import Bridge
from tests.acceptance.processes import until
from tests.acceptance.sender import Message, Sender, Usage, message

pytestmark = pytest.mark.acceptance


def hours(count: int) -> list[Message]:
    """Usage of all subjects in many hours, with corrections of a part of them."""
    dice = random.Random(7)  # noqa: S311 - a test that repeats itself; nothing secret is drawn
    first = [message(Usage(s, h, dice.randint(1, 999))) for h in range(count) for s in range(1, 6)]
    again = [
        message(Usage(entry.usage[0].subject, entry.usage[0].hour, dice.randint(0, 999)))
        for entry in dice.sample(first, count)
    ]
    return [*first, *again]


async def test_two_replicas_are_sent_everything_twice(bridge: Bridge) -> None:
    await bridge.know_everything(snapshots=False)
    (_, one), (_, other) = await asyncio.gather(bridge.serve(), bridge.serve())
    urls = [f"{address}/webhooks/openmeter" for address in (one, other)]
    day = hours(6)
    first, second = Sender(urls), Sender(urls[::-1])
    await asyncio.gather(first.deliver(day, at_once=16), second.deliver(day[::-1], at_once=16))
    answers = Counter(
        (first.statuses[entry.svix_id][-1], second.statuses[entry.svix_id][-1]) for entry in day
    )
    assert set(answers) <= {(202, 200), (200, 202)}
    await bridge.comes_out_even(first)


async def test_two_receivers_and_two_workers_one_of_which_is_killed(bridge: Bridge) -> None:
    await bridge.know_everything()
    # Each may have two calls in flight, so that four subscriptions need both.
    workers = [bridge.start("worker", STRIPE_IN_FLIGHT="2") for _ in range(2)]
    (_, one), (_, other) = await asyncio.gather(
        bridge.serve("--no-worker"), bridge.serve("--no-worker")
    )
    bridge.stripe.control("PATCH", "/settings", {"write_latency_ms": 15})
    sender = Sender([f"{address}/webhooks/openmeter" for address in (one, other)])

    async def both_ready() -> bool:
        return all("booking and sending as" in worker.output() for worker in workers)

    async def both_at_work() -> bool:
        rows = await bridge.rows("select distinct worker from attempts")
        return len(rows) == 2

    async def send() -> None:
        # On a quiet machine one worker may be done before the other has looked for the first time.
        while not await both_at_work():
            await sender.deliver(hours(10), at_once=4)
        await sender.deliver(hours(10), at_once=4)

    await until(both_ready, "both workers have started")
    sending = asyncio.create_task(send())
    await until(both_at_work, "both workers have sent something")
    workers[0].kill()
    await sending
    await bridge.comes_out_even(sender)
    # Never two POSTs at once on one subscription: the sandbox would have answered 429. (The one
    # that was in flight when its worker died may have met the one that settles it: 409.)
    assert set(bridge.stripe.posts()) <= {"200", "409", "cut"}


async def test_one_delivery_a_hundred_times_at_once(bridge: Bridge) -> None:
    await bridge.know_everything()
    (_, one), (_, other) = await asyncio.gather(bridge.serve(), bridge.serve())
    sender = Sender([f"{address}/webhooks/openmeter" for address in (one, other)])
    entry = message(Usage(1, 0, 5))
    answers = Counter(await sender.resend(entry, 100))
    assert answers == {202: 1, 200: 99}
    sender.sent.append(entry)
    await bridge.comes_out_even(sender)
    assert bridge.stripe.quantities() == [5]
    assert len(await bridge.rows("select 1 from usage_records")) == 1
