"""A ledger of months, the first of which are older than it keeps."""

from collections.abc import AsyncIterator

import pytest
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.ledger.months import Months, months_of
from tests.ledger.world import ONE_CUSTOMER, World


@pytest.fixture
async def months(fresh_url: URL, engine: AsyncEngine) -> AsyncIterator[Months]:
    """An instance that carries late usage forward, with customer-1 on sub_1."""
    world = World(fresh_url, engine)
    await world.apply(ONE_CUSTOMER)
    async with months_of(world) as made:
        yield made
