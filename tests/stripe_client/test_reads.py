"""Subscriptions, items, summaries, customers and prices."""

from typing import Any

import httpx
import pytest
import respx

from app.stripe_client import (
    MalformedAnswer,
    Price,
    ProblemKind,
    StripeAnswered,
    StripeClient,
    SubscriptionItem,
)
from tests.stripe_client import bodies
from tests.stripe_client.bodies import ok, queries

TOKENS = Price(
    id="price_tokens",
    active=True,
    currency="usd",
    lookup_key="tokens",
    metadata={"meter": "ai_prompt_tokens"},
    usage_type="metered",
    aggregate_usage="sum",
    interval="month",
    interval_count=1,
)


async def test_a_subscription_comes_with_everything_that_booking_needs(
    client: StripeClient, stripe_api: respx.MockRouter
) -> None:
    body = bodies.subscription(
        billing_thresholds={"amount_gte": 1000}, schedule="sub_sched_1", cancel_at=5, trial_end=6
    )
    stripe_api.get("/v1/subscriptions/sub_1").mock(return_value=ok(body))
    found = await client.subscription("sub_1")
    assert (found.id, found.customer, found.status) == ("sub_1", "cus_1", "active")
    assert (found.current_period_start, found.current_period_end) == (
        bodies.PERIOD_START,
        bodies.PERIOD_END,
    )
    assert found.billing_thresholds
    assert found.schedule == "sub_sched_1"
    assert (found.cancel_at, found.trial_end, found.ended_at) == (5, 6, None)
    assert found.metadata == {"plan": "pro"}
    assert found.items == (
        SubscriptionItem(
            id="si_1",
            price=TOKENS,
            current_period_start=bodies.PERIOD_START,
            current_period_end=bodies.PERIOD_END,
        ),
    )
    assert found.meta.request_id == "req_1"


@pytest.mark.parametrize(
    ("change", "cancel_at", "at_period_end", "paused", "trial_end"),
    [
        ({}, None, False, False, None),
        ({"cancel_at": 7}, 7, False, False, None),
        (
            {"cancel_at": bodies.PERIOD_END, "cancel_at_period_end": True},
            bodies.PERIOD_END,
            True,
            False,
            None,
        ),
        (
            {"pause_collection": {"behavior": "keep_as_draft", "resumes_at": None}},
            None,
            False,
            True,
            None,
        ),
        ({"status": "paused", "trial_end": 9}, None, False, False, 9),
    ],
)
async def test_a_subscription_tells_how_its_periods_will_go_on(
    client: StripeClient,
    stripe_api: respx.MockRouter,
    change: dict[str, Any],
    cancel_at: int | None,
    at_period_end: bool,
    paused: bool,
    trial_end: int | None,
) -> None:
    stripe_api.get("/v1/subscriptions/sub_1").mock(return_value=ok(bodies.subscription(**change)))
    found = await client.subscription("sub_1")
    assert (found.cancel_at, found.cancel_at_period_end) == (cancel_at, at_period_end)
    assert (found.pause_collection, found.trial_end) == (paused, trial_end)
    assert found.status == change.get("status", "active")


async def test_the_items_own_period_comes_before_the_subscriptions(
    client: StripeClient, stripe_api: respx.MockRouter
) -> None:
    own = bodies.item("si_1", current_period_start=11, current_period_end=12)
    body = bodies.subscription(items=bodies.listing([own, bodies.item("si_2")]))
    stripe_api.get("/v1/subscriptions/sub_1").mock(return_value=ok(body))
    first, second = (await client.subscription("sub_1")).items
    assert (first.current_period_start, first.current_period_end) == (11, 12)
    assert (second.current_period_start, second.current_period_end) == (
        bodies.PERIOD_START,
        bodies.PERIOD_END,
    )


async def test_expanded_objects_count_by_their_id(
    client: StripeClient, stripe_api: respx.MockRouter
) -> None:
    body = bodies.subscription(customer={"id": "cus_9"}, schedule={"id": "sub_sched_9"})
    stripe_api.get("/v1/subscriptions/sub_1").mock(return_value=ok(body))
    found = await client.subscription("sub_1")
    assert (found.customer, found.schedule) == ("cus_9", "sub_sched_9")


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"id": "sub_2"}, "id"),
        ({"object": "customer"}, "object"),
        ({"customer": None}, "customer"),
        ({"customer": {}}, "customer.id"),
        ({"status": 1}, "status"),
        ({"livemode": None}, "livemode"),
        ({"current_period_end": None}, "current_period_end"),
        ({"current_period_start": "1767225600"}, "current_period_start"),
        ({"current_period_start": 1767225600.5}, "current_period_start"),
        ({"cancel_at": True}, "cancel_at"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"metadata": []}, "metadata"),
        ({"items": None}, "items"),
        ({"items": []}, "items"),
        ({"items": {"data": {}}}, "items.data"),
        ({"items": {"data": [None], "has_more": False}}, r"items.data\[0\]"),
        ({"items": {"data": []}}, "items.has_more"),
        ({"items": bodies.listing([bodies.item(price=None)])}, r"items.data\[0\].price"),
        ({"items": bodies.listing([bodies.item(subscription="sub_2")])}, "subscription"),
        ({"items": bodies.listing([bodies.item(current_period_end=3)])}, "current_period_start"),
        (
            {"items": bodies.listing([bodies.item(price=bodies.price(recurring={}))])},
            r"items.data\[0\].price.recurring.usage_type",
        ),
    ],
)
async def test_a_malformed_subscription_names_the_path_of_what_is_wrong(
    client: StripeClient, stripe_api: respx.MockRouter, change: dict[str, Any], path: str
) -> None:
    stripe_api.get("/v1/subscriptions/sub_1").mock(return_value=ok(bodies.subscription(**change)))
    with pytest.raises(MalformedAnswer, match=path):
        await client.subscription("sub_1")


@pytest.mark.parametrize("name", sorted(bodies.subscription()))
async def test_a_subscription_without_one_member_never_raises_anything_foreign(
    client: StripeClient, stripe_api: respx.MockRouter, name: str
) -> None:
    body = bodies.subscription()
    del body[name]
    stripe_api.get("/v1/subscriptions/sub_1").mock(return_value=ok(body))
    try:
        found = await client.subscription("sub_1")
    except MalformedAnswer as error:
        assert name in str(error)  # noqa: PT017 - either outcome is right, but no third
    else:
        assert found.id == "sub_1"


async def test_items_alone_have_no_period_under_the_pinned_version(
    client: StripeClient, stripe_api: respx.MockRouter
) -> None:
    stripe_api.get("/v1/subscription_items").mock(return_value=ok(bodies.listing([bodies.item()])))
    assert await client.subscription_items("sub_1") == (SubscriptionItem(id="si_1", price=TOKENS),)


async def test_summaries_come_newest_first_with_open_bounds(
    client: StripeClient, stripe_api: respx.MockRouter
) -> None:
    closed = bodies.summary(id="sis_0", invoice="in_1", period={"start": 1, "end": 2})
    route = stripe_api.get("/v1/subscription_items/si_1/usage_record_summaries").mock(
        return_value=ok(bodies.listing([bodies.summary(), closed], has_more=True))
    )
    newest, older = await client.usage_record_summaries("si_1", limit=2)
    assert (newest.invoice, newest.period_start, newest.period_end) == (None, None, None)
    assert (older.invoice, older.period_start, older.period_end) == ("in_1", 1, 2)
    assert newest.total_usage == 12
    assert queries(route) == [{"limit": "2"}]


@pytest.mark.parametrize("limit", [0, 101, -1, True])
async def test_a_page_of_summaries_has_one_to_a_hundred(client: StripeClient, limit: int) -> None:
    with pytest.raises(ValueError, match="limit"):
        await client.usage_record_summaries("si_1", limit=limit)


async def test_summaries_of_another_item_are_malformed(
    client: StripeClient, stripe_api: respx.MockRouter
) -> None:
    stripe_api.get("/v1/subscription_items/si_1/usage_record_summaries").mock(
        return_value=ok(bodies.listing([bodies.summary(subscription_item="si_2")]))
    )
    with pytest.raises(MalformedAnswer, match="subscription_item"):
        await client.usage_record_summaries("si_1")


async def test_a_deleted_customer_is_told_apart(
    client: StripeClient, stripe_api: respx.MockRouter
) -> None:
    living = {"id": "cus_1", "object": "customer", "livemode": True, "metadata": {"k": "v"}}
    gone = {"id": "cus_2", "object": "customer", "deleted": True}
    stripe_api.get("/v1/customers/cus_1").mock(return_value=ok(living))
    stripe_api.get("/v1/customers/cus_2").mock(return_value=ok(gone))
    first, second = await client.customer("cus_1"), await client.customer("cus_2")
    assert (first.deleted, first.livemode, first.metadata) == (False, True, {"k": "v"})
    assert (second.deleted, second.livemode) == (True, None)


@pytest.mark.parametrize(
    ("recurring", "takes"),
    [
        ({"usage_type": "metered", "interval": "month", "meter": None}, True),
        ({"usage_type": "metered", "interval": "month"}, True),
        ({"usage_type": "metered", "interval": "month", "meter": "mtr_1"}, False),
        ({"usage_type": "metered", "interval": "month", "meter": {"id": "mtr_1"}}, False),
        ({"usage_type": "licensed", "interval": "month", "meter": None}, False),
        (None, False),
    ],
)
async def test_only_metered_prices_without_a_billing_meter_take_usage_records(
    client: StripeClient, stripe_api: respx.MockRouter, recurring: Any, takes: bool
) -> None:
    body = bodies.price(id="gold plan", recurring=recurring, lookup_key=None, metadata=None)
    stripe_api.get("/v1/prices/gold%20plan").mock(return_value=ok(body))
    found = await client.price("gold plan")
    assert found.takes_usage_records is takes
    assert (found.lookup_key, found.metadata) == (None, {})


@pytest.mark.parametrize(
    ("data", "livemode"), [([], None), ([bodies.subscription(livemode=True)], True)]
)
async def test_the_probe_is_one_small_read(
    client: StripeClient,
    stripe_api: respx.MockRouter,
    data: list[dict[str, Any]],
    livemode: bool | None,
) -> None:
    route = stripe_api.get("/v1/subscriptions").mock(return_value=ok(bodies.listing(data)))
    probe = await client.probe()
    assert (probe.livemode, probe.meta.stripe_version) == (livemode, "2025-02-24.acacia")
    assert queries(route) == [{"limit": "1"}]


async def test_reads_raise_the_same_errors_as_writes(
    client: StripeClient, stripe_api: respx.MockRouter
) -> None:
    error = {"type": "invalid_request_error", "code": "resource_missing", "message": "No such"}
    stripe_api.get("/v1/subscriptions/sub_9").mock(
        return_value=httpx.Response(404, json={"error": error})
    )
    with pytest.raises(StripeAnswered) as caught:
        await client.subscription("sub_9")
    assert caught.value.kind is ProblemKind.RESOURCE_MISSING


@pytest.mark.parametrize("identifier", ["", "..", "a/b", "a\nb"])
async def test_no_read_takes_an_id_that_leads_elsewhere(
    client: StripeClient, stripe_api: respx.MockRouter, identifier: str
) -> None:
    for call in (
        client.subscription(identifier),
        client.subscription_items(identifier),
        client.subscriptions(customer=identifier),
        client.usage_record_summaries(identifier),
        client.customer(identifier),
        client.price(identifier),
    ):
        with pytest.raises(ValueError, match="usable"):
            await call
    assert not stripe_api.calls
