"""A client whose network is a respx router."""

from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
import respx

from app.stripe_client import StripeClient

API_KEY = "sk_test_51Secret0000000000"


@pytest.fixture
def stripe_api() -> Iterator[respx.MockRouter]:
    router = respx.MockRouter(base_url="https://api.stripe.com", assert_all_called=False)
    yield router
    router.assert_all_called()


@pytest.fixture
async def client(stripe_api: respx.MockRouter) -> AsyncIterator[StripeClient]:
    transport = httpx.MockTransport(stripe_api.async_handler)
    async with StripeClient(api_key=API_KEY, transport=transport) as opened:
        yield opened
