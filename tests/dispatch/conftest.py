"""A sandbox on a real port, and a client of it."""

import threading
import time
from collections.abc import AsyncIterator, Iterator

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.sandbox.server import bind, build_server, create_sandbox, url_of
from app.stripe_client import StripeClient, Timeouts
from tests.dispatch.ledger import SeededLedger
from tests.dispatch.stripe_side import KEY, StripeSide


@pytest.fixture(scope="session")
def sandbox_server() -> Iterator[StripeSide]:
    """One server for the session; each test starts it over."""
    with bind("127.0.0.1", 0) as bound:
        server = build_server(create_sandbox())
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        deadline = time.monotonic() + 20
        while not server.started and time.monotonic() < deadline:
            time.sleep(0.01)
        yield StripeSide(url_of(bound))
        server.should_exit = True
        thread.join(timeout=20)


@pytest.fixture
def stripe(sandbox_server: StripeSide) -> StripeSide:
    """A sandbox with subscriptions sub_1 to sub_4 of one item each."""
    sandbox_server.start_over()
    sandbox_server.subscribe(range(1, 5))
    return sandbox_server


@pytest.fixture
async def client(stripe: StripeSide) -> AsyncIterator[StripeClient]:
    """A client of the sandbox."""
    async with StripeClient(
        api_key=KEY,
        base_url=stripe.url,
        timeouts=Timeouts(connect=2, read=5, pool=5, total=5),
    ) as opened:
        yield opened


@pytest.fixture
def ledger(engine: AsyncEngine) -> SeededLedger:
    """A ledger in which tests say what must stand at Stripe."""
    return SeededLedger(engine)
