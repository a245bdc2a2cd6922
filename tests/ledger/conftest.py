"""The world of the ledger's tests."""

from collections.abc import AsyncIterator

import pytest
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.ledger.moves import Moving
from tests.ledger.world import ONE_CUSTOMER, Replica, World


@pytest.fixture
def unmapped(fresh_url: URL, engine: AsyncEngine) -> World:
    """A world without mappings."""
    return World(fresh_url, engine)


@pytest.fixture
async def world(unmapped: World) -> World:
    """A world with customer-1 on sub_1, whose item si_1 bills the meter tokens."""
    await unmapped.apply(ONE_CUSTOMER)
    return unmapped


@pytest.fixture
async def replica(unmapped: World) -> AsyncIterator[Replica]:
    """One process's share of the world."""
    async with unmapped.replica() as made:
        yield made


@pytest.fixture
def moving(world: World) -> Moving:
    """The world with a second subscription, and a second price, to move usage to."""
    return Moving(world)
