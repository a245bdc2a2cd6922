"""The bridge's own client on the sandbox: what it reads is what the sandbox holds."""

from collections.abc import AsyncIterator

import pytest

from app.sandbox.server import SandboxApp
from app.stripe_client import StripeClient, StripeUnreachable
from tests.sandbox.transport import SandboxTransport
from tests.sandbox.world import DAY, END, KEY, NOW, START, World


@pytest.fixture
async def client(app: SandboxApp) -> AsyncIterator[StripeClient]:
    """The bridge's client, in-process."""
    async with StripeClient(api_key=KEY, transport=SandboxTransport(app)) as opened:
        yield opened


async def test_how_a_subscription_goes_on_is_read(world: World, client: StripeClient) -> None:
    found = await client.subscription("sub_1")
    assert (found.cancel_at, found.cancel_at_period_end, found.pause_collection) == (
        None,
        False,
        False,
    )
    await world.control("PUT", "/subscriptions/sub_1/pause_collection", {})
    await world.control("POST", "/subscriptions/sub_1/cancel", {"at_period_end": True})
    found = await client.subscription("sub_1")
    assert (found.cancel_at, found.cancel_at_period_end, found.pause_collection) == (
        END,
        True,
        True,
    )
    await world.control("POST", "/subscriptions/sub_1/cancel", {"at": END + DAY})
    await world.control("PUT", "/subscriptions/sub_1/trial_end", {"at": NOW + DAY})
    found = await client.subscription("sub_1")
    assert (found.cancel_at, found.cancel_at_period_end, found.trial_end, found.status) == (
        END + DAY,
        False,
        NOW + DAY,
        "trialing",
    )
    assert (found.current_period_start, found.current_period_end) == (NOW, NOW + DAY)


@pytest.mark.parametrize(
    ("thresholds", "shown"),
    [
        ({"amount_gte": 5}, True),
        ({"amount_gte": None, "reset_billing_cycle_anchor": True}, True),
        ({"amount_gte": None}, False),
    ],
)
async def test_thresholds_that_are_shown_are_those_that_refuse_set(
    world: World, client: StripeClient, thresholds: dict[str, object], shown: bool
) -> None:
    await world.control("PUT", "/subscriptions/sub_1/thresholds", thresholds)
    assert (await client.subscription("sub_1")).billing_thresholds is shown
    assert (await world.use()).status_code == (400 if shown else 200)


async def test_customers_and_subscriptions_are_listed_to_the_end(
    world: World, client: StripeClient
) -> None:
    for number in range(130):
        body = {"id": f"cus_x{number}", "metadata": {"openmeter_subject": f"s-{number}"}}
        await world.control("POST", "/customers", body)
    items = [{"price": "price_1"}]
    await world.control("POST", "/subscriptions", {"customer": "cus_x7", "items": items})
    await world.control("POST", "/subscriptions/sub_1/cancel", {})
    found = await client.customers()
    assert [customer.id for customer in found[:2]] == ["cus_x129", "cus_x128"]
    assert {
        c.metadata["openmeter_subject"] for c in found if "openmeter_subject" in c.metadata
    } == {f"s-{n}" for n in range(130)}
    assert [s.customer for s in await client.subscriptions()] == ["cus_x7"]
    assert [s.customer for s in await client.subscriptions(status="all")] == ["cus_x7", "cus_1"]
    assert [s.status for s in await client.subscriptions(customer="cus_1", status="all")] == [
        "canceled"
    ]


@pytest.mark.parametrize(
    ("aggregate", "totals"),
    [
        ("sum", [0, 5, 12]),
        ("max", [0, 5, 7]),
        ("last_during_period", [0, 5, 2]),
        ("last_ever", [5, 5, 2]),
    ],
)
async def test_every_aggregate_end_to_end(
    world: World, client: StripeClient, aggregate: str, totals: list[int]
) -> None:
    await world.control("POST", "/prices", {"id": "price_2", "aggregate_usage": aggregate})
    await world.control("POST", "/subscriptions/sub_1/items", {"id": "si_2", "price": "price_2"})

    async def post(quantity: int, at: int) -> None:
        await client.post_usage_record(
            subscription_item="si_2",
            quantity=quantity,
            timestamp=at,
            action="set",
            idempotency_key=f"{at}-{quantity}",
        )

    for quantity, at in [(3, NOW - 30), (2, NOW - 10), (9, NOW - 20), (7, NOW - 20)]:
        await post(quantity, at)
    await world.clock(END + DAY)
    await post(5, END + 50)
    may = END + 31 * DAY
    await world.clock(may)
    summaries = await client.usage_record_summaries("si_2")
    assert [summary.total_usage for summary in summaries] == totals
    assert [summary.invoice is None for summary in summaries] == [True, False, False]
    assert [item.price.aggregate_usage for item in (await client.subscription("sub_1")).items] == [
        "sum",
        aggregate,
    ]
    [item] = (await world.control("GET", "/totals?subscription_item=si_2"))["items"]
    assert [
        (period["start"], period["total_usage"], period["invoice"]) for period in item["periods"]
    ] == [(s.period_start, s.total_usage, s.invoice) for s in summaries]
    assert summaries[-1].period_start == START


@pytest.mark.parametrize(
    ("when", "executed"),
    [("before_execution", 0), ("after_execution", 1), ("mid_answer", 1)],
)
@pytest.mark.parametrize("reset", [True, False])
async def test_a_cut_is_a_lost_connection(
    world: World, client: StripeClient, when: str, executed: int, reset: bool
) -> None:
    await world.inject("cut", when=when, reset=reset)
    record = {"subscription_item": "si_1", "quantity": 4, "timestamp": NOW}
    with pytest.raises(StripeUnreachable) as caught:
        await client.post_usage_record(**record, action="increment", idempotency_key="k")  # type: ignore[arg-type]
    assert caught.value.sent  # the error does not tell whether it was executed
    assert len(await world.ledger()) == executed
    await client.post_usage_record(**record, action="increment", idempotency_key="k")  # type: ignore[arg-type]
    assert await world.records() == {NOW: 4}
