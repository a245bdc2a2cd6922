"""Lists are followed to their end, and given up when they have none."""

from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
import respx

from app.stripe_client import Customer, MalformedAnswer, StripeClient, Subscription
from app.stripe_client.client import MOST_ITEMS
from tests.stripe_client import bodies
from tests.stripe_client.bodies import ok, queries


async def test_more_items_than_one_page_are_followed_to_the_end(
    client: StripeClient, stripe_api: respx.MockRouter
) -> None:
    first = bodies.listing([bodies.item(f"si_{n}") for n in range(10)], has_more=True)
    stripe_api.get("/v1/subscriptions/sub_1").mock(
        return_value=ok(bodies.subscription(items=first))
    )
    pages = stripe_api.get("/v1/subscription_items").mock(
        side_effect=[
            ok(bodies.listing([bodies.item(f"si_{n}") for n in range(10, 110)], has_more=True)),
            ok(bodies.listing([bodies.item("si_110")])),
        ]
    )
    found = await client.subscription("sub_1")
    assert [item.id for item in found.items] == [f"si_{n}" for n in range(111)]
    assert {item.current_period_end for item in found.items} == {bodies.PERIOD_END}
    assert queries(pages) == [
        {"subscription": "sub_1", "limit": "100", "starting_after": "si_9"},
        {"subscription": "sub_1", "limit": "100", "starting_after": "si_109"},
    ]


@pytest.mark.parametrize(
    "page",
    [
        bodies.listing([], has_more=True),
        bodies.listing([bodies.item("si_0")], has_more=True),
        bodies.listing([bodies.item("si_1"), bodies.item("si_1")]),
        {**bodies.listing([]), "object": "search_result"},
        {"object": "list", "data": []},
    ],
    ids=["empty but more", "the same again", "twice on a page", "no list", "no has_more"],
)
async def test_a_list_that_cannot_be_followed_is_malformed(
    client: StripeClient, stripe_api: respx.MockRouter, page: dict[str, Any]
) -> None:
    first = bodies.listing([bodies.item("si_0")], has_more=True)
    stripe_api.get("/v1/subscription_items").mock(side_effect=[ok(first), ok(page)])
    with pytest.raises(MalformedAnswer):
        await client.subscription_items("sub_1")


async def test_a_list_without_end_is_given_up(
    client: StripeClient, stripe_api: respx.MockRouter
) -> None:
    served = 0

    def endless(request: httpx.Request) -> httpx.Response:
        nonlocal served
        served += 100
        items = [bodies.item(f"si_{n}") for n in range(served - 100, served)]
        return ok(bodies.listing(items, has_more=True))

    stripe_api.get("/v1/subscription_items").mock(side_effect=endless)
    with pytest.raises(MalformedAnswer, match=str(MOST_ITEMS)):
        await client.subscription_items("sub_1")
    assert served == MOST_ITEMS


async def test_subscriptions_are_listed_with_all_their_items(
    client: StripeClient, stripe_api: respx.MockRouter
) -> None:
    many = bodies.subscription(items=bodies.listing([bodies.item("si_1")], has_more=True))
    lists = stripe_api.get("/v1/subscriptions").mock(
        side_effect=[
            ok(bodies.listing([many], has_more=True)),
            ok(bodies.listing([bodies.subscription(id="sub_2", items=bodies.listing([]))])),
        ]
    )
    stripe_api.get("/v1/subscription_items").mock(
        return_value=ok(bodies.listing([bodies.item("si_2")]))
    )
    first, second = await client.subscriptions(customer="cus_1", status="all")
    assert [item.id for item in first.items] == ["si_1", "si_2"]
    assert (second.id, second.items) == ("sub_2", ())
    assert queries(lists) == [
        {"customer": "cus_1", "status": "all", "limit": "100"},
        {"customer": "cus_1", "status": "all", "limit": "100", "starting_after": "sub_1"},
    ]


async def test_customers_are_listed_with_their_metadata_to_the_end(
    client: StripeClient, stripe_api: respx.MockRouter
) -> None:
    lists = stripe_api.get("/v1/customers").mock(
        side_effect=[
            ok(bodies.listing([bodies.customer()], has_more=True)),
            ok(bodies.listing([bodies.customer("cus_2", metadata={}, email=None)])),
        ]
    )
    assert await client.customers() == (
        Customer("cus_1", livemode=True, metadata={"openmeter_subject": "acme"}),
        Customer("cus_2", livemode=True),
    )
    assert queries(lists) == [{"limit": "100"}, {"limit": "100", "starting_after": "cus_1"}]


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"object": "subscription"}, "object"),
        ({"id": ""}, "id"),
        ({"livemode": None}, "livemode"),
        ({"metadata": {"openmeter_subject": 7}}, "metadata"),
        ({"metadata": "acme"}, "metadata"),
    ],
)
async def test_a_malformed_customer_of_a_list_names_what_is_wrong(
    client: StripeClient, stripe_api: respx.MockRouter, change: dict[str, Any], path: str
) -> None:
    stripe_api.get("/v1/customers").mock(
        return_value=ok(bodies.listing([bodies.customer(**change)]))
    )
    with pytest.raises(MalformedAnswer, match=path):
        await client.customers()


@pytest.mark.parametrize("noun", ["customers", "subscriptions"])
@pytest.mark.parametrize(
    ("pages", "most", "whole", "read"),
    [
        ([2], 2, True, 1),
        ([2], 1, False, 1),
        ([2, 1], 3, True, 2),
        ([2, 1], 2, False, 1),  # more are promised: the next page need not be read
        ([2, 2], 3, False, 2),
        ([0], 0, True, 1),
    ],
)
async def test_a_list_is_read_up_to_the_bound_that_the_caller_gives(
    client: StripeClient,
    stripe_api: respx.MockRouter,
    noun: str,
    pages: list[int],
    most: int,
    whole: bool,
    read: int,
) -> None:
    one = bodies.customer if noun == "customers" else _subscription
    numbers = iter(range(sum(pages)))
    answers = [
        ok(
            bodies.listing(
                [one(f"id_{next(numbers)}") for _ in range(size)], has_more=page < len(pages) - 1
            )
        )
        for page, size in enumerate(pages)
    ]
    route = stripe_api.get(f"/v1/{noun}").mock(side_effect=answers)
    listed: Callable[..., Awaitable[tuple[Customer | Subscription, ...]]] = getattr(client, noun)
    if whole:
        assert [found.id for found in await listed(most=most)] == [
            f"id_{n}" for n in range(sum(pages))
        ]
    else:
        with pytest.raises(MalformedAnswer, match=f"more than {most}"):
            await listed(most=most)
    assert len(route.calls) == read


def _subscription(identifier: str) -> dict[str, Any]:
    return bodies.subscription(id=identifier, items=bodies.listing([]))


@pytest.mark.parametrize("most", [-1, True, 1.0, "9"])
async def test_a_bound_that_is_no_number_sends_nothing(
    client: StripeClient, stripe_api: respx.MockRouter, most: Any
) -> None:
    for call in (client.customers(most=most), client.subscriptions(most=most)):
        with pytest.raises(ValueError, match="most"):
            await call
    assert not stripe_api.calls
