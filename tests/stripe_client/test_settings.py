"""What a client can be made of."""

from typing import Any

import httpx
import pytest
import respx

from app.stripe_client import StripeClient, Timeouts
from tests.stripe_client import bodies


@pytest.mark.parametrize(
    "settings",
    [
        {"api_key": ""},
        {"api_key": "sk_test_1\n"},
        {"account": "acct 1"},
        {"base_url": "api.stripe.com"},
        {"base_url": "ftp://api.stripe.com"},
        {"base_url": "https://"},
        {"base_url": "https://user:pw@api.stripe.com"},
        {"base_url": "https://api.stripe.com?x=1"},
        {"base_url": "https://api.stripe.com:port"},
        {"max_connections": 0},
        {"max_connections": True},
    ],
)
def test_a_client_of_wrong_settings_is_not_made(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"API key|account|base URL|max_connections") as caught:
        StripeClient(**{"api_key": "sk_test_1", **settings})
    assert "sk_test" not in str(caught.value)
    assert "pw" not in str(caught.value)


async def test_a_base_url_may_have_a_path_and_a_slash() -> None:
    router = respx.MockRouter(assert_all_called=True)
    router.get("http://127.0.0.1:12111/stripe/v1/customers/cus_1").mock(
        return_value=httpx.Response(
            200,
            headers=bodies.VERSION,
            json={"id": "cus_1", "object": "customer", "livemode": False},
        )
    )
    transport = httpx.MockTransport(router.async_handler)
    base_url = "http://127.0.0.1:12111/stripe/"
    async with StripeClient(api_key="k", base_url=base_url, transport=transport) as client:
        assert (await client.customer("cus_1")).id == "cus_1"


@pytest.mark.parametrize(
    "timeouts",
    [
        {"connect": 0},
        {"connect": 11},
        {"pool": 31},
        {"read": 31},
        {"read": 0},
        {"total": float("nan")},
    ],
)
def test_timeouts_that_cannot_work_are_refused(timeouts: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="timeouts"):
        Timeouts(**timeouts)
