"""The real database for every test: built once by the real migrations, cloned for each test."""

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
from alembic import command
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db import alembic_config, create_engine, database_url
from app.embedded import start


@pytest.fixture(scope="session")
def server_url() -> Iterator[URL]:
    """A PostgreSQL server: `TEST_DATABASE_URL`, or one of our own for the session."""
    given = os.environ.get("TEST_DATABASE_URL")
    if given:
        yield database_url(given)
        return
    with tempfile.TemporaryDirectory(prefix="mb-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        # A vacuum belongs to the superuser, and the role of the tests may not end it in order to
        # drop the database under it.
        server = start(Path(folder) / "pg", settings={"autovacuum": "off"})
        try:
            yield database_url(server.url)
        finally:
            server.stop()


async def _admin(url: URL, sql: str) -> None:
    connection = await asyncpg.connect(
        url.set(drivername="postgresql").render_as_string(hide_password=False)
    )
    try:
        await connection.execute(sql)
    finally:
        await connection.close()


@pytest.fixture(scope="session")
def template_database(server_url: URL) -> Iterator[str]:
    """The name of a migrated, empty database."""
    name = f"mb_template_{uuid4().hex[:12]}"
    asyncio.run(_admin(server_url, f'create database "{name}"'))
    command.upgrade(alembic_config(server_url.set(database=name)), "head")
    yield name
    asyncio.run(_admin(server_url, f'drop database "{name}" with (force)'))


@pytest.fixture
async def fresh_url(server_url: URL, template_database: str) -> AsyncIterator[URL]:
    """A migrated, empty database of the test's own."""
    name = f"mb_test_{uuid4().hex[:12]}"
    await _admin(server_url, f'create database "{name}" template "{template_database}"')
    yield server_url.set(database=name)
    await _admin(server_url, f'drop database "{name}" with (force)')


@pytest.fixture
async def engine(fresh_url: URL) -> AsyncIterator[AsyncEngine]:
    """An engine on a fresh database."""
    engine = create_engine(fresh_url, pool_size=10)
    yield engine
    await engine.dispose()
