"""Lists are followed to their end, and given up when they have none."""

from typing import Any

import httpx
import pytest
import respx

from app.stripe_client import MalformedAnswer, StripeClient
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
    assert served == MOST_ITEMS + 100


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
