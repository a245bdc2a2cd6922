"""A database with tables of such a size that a plan without an index shows."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db import create_engine
from tests.ledger.world import Replica, World
from tests.plans.large import FILL

SERVER = "postgresql"


@pytest.fixture(scope="session")
def large_database(server_url: URL, template_database: str) -> Iterator[str]:
    """The name of a database with 100,000 windows, each on a record of its own."""
    name = f"mb_large_{uuid4().hex[:12]}"
    asyncio.run(_run(server_url, [f'create database "{name}" template "{template_database}"']))
    asyncio.run(_run(server_url.set(database=name), [*FILL, "analyze"]))
    yield name
    asyncio.run(_run(server_url, [f'drop database "{name}" with (force)']))


async def _run(url: URL, statements: list[str]) -> None:
    address = url.set(drivername=SERVER).render_as_string(hide_password=False)
    connection = await asyncpg.connect(address)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


@pytest.fixture
async def large(server_url: URL, large_database: str) -> AsyncIterator[AsyncEngine]:
    """An engine on the large database, which the tests share."""
    engine = create_engine(server_url.set(database=large_database), pool_size=5)
    yield engine
    await engine.dispose()


@pytest.fixture
def world(server_url: URL, large_database: str, large: AsyncEngine) -> World:
    """The ledger's world on the large database."""
    return World(server_url.set(database=large_database), large)


@pytest.fixture
async def replica(world: World) -> AsyncIterator[Replica]:
    """A process's share of it."""
    async with world.replica() as made:
        yield made
