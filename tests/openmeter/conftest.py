"""OpenMeter's stand-in on a real port, and a client of it."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import pytest

from app.openmeter.api import OpenMeterClient
from tests.openmeter_side.serving import serving
from tests.openmeter_side.side import OpenMeterSide

API_KEY = "om_Secret0123456789"


@dataclass(frozen=True)
class Served:
    """A stand-in and its address."""

    side: OpenMeterSide
    url: str


@pytest.fixture(scope="session")
def served() -> Iterator[Served]:
    """One server for the session; each test starts it over."""
    side = OpenMeterSide()
    with serving(side) as url:
        yield Served(side, url)


@pytest.fixture
def side(served: Served) -> OpenMeterSide:
    """A stand-in that knows one meter, asks for a key, and is otherwise empty."""
    served.side.start_over()
    served.side.heal()
    served.side.api_key = API_KEY
    served.side.meter("ai_tokens", group_by=("model", "type"))
    return served.side


@pytest.fixture
async def openmeter(served: Served, side: OpenMeterSide) -> AsyncIterator[OpenMeterClient]:
    """A client that has the key."""
    async with OpenMeterClient(base_url=served.url, api_key=side.api_key, timeout=10) as client:
        yield client
