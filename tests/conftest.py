"""The real database for every test: built once by the real migrations, cloned for each test."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import asyncpg
import hypothesis
import pytest
from alembic import command
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db import alembic_config, create_engine, database_url
from app.embedded import start

# How long inputs take, or to draw them, says how busy the machine is, not how the program does.
hypothesis.settings.register_profile(
    "any-machine",
    hypothesis.settings(),
    deadline=None,
    suppress_health_check=[
        *hypothesis.settings().suppress_health_check,
        hypothesis.HealthCheck.too_slow,
    ],
)
hypothesis.settings.load_profile("any-machine")

MOST_WORKERS = 8
"""More are not quicker: the longest tests alone take as long."""


@pytest.hookimpl(optionalhook=True)  # pytest may run without xdist
def pytest_xdist_auto_num_workers() -> int:
    """The workers of `-n auto`: three for two processors, as a third of all time is waiting."""
    return min(MOST_WORKERS, (os.cpu_count() or 1) * 3 // 2)


SERVER_SETTINGS = {
    # A vacuum belongs to the superuser, and the role of the tests may not end it in order to drop
    # the database under it.
    "autovacuum": "off",
    # Nothing here is to outlast a power failure. Tests kill the program, never this server: those
    # that stop or kill PostgreSQL start one of their own, with the settings it has at work.
    "fsync": "off",
    "full_page_writes": "off",
    # Each clone of a database writes 8 MB of log, which would pile up to 1 GB.
    "max_wal_size": "128MB",
}
ROOM = 2 << 30
"""Bytes that must be free in memory: several times what a server of each worker grows to."""


def folder_in_memory() -> str | None:
    """Where cloning a database takes 25 ms; None for the usual place, a disk, with 100 to 500."""
    memory = Path("/dev/shm")  # noqa: S108 - the folder in it has a random name, as in /tmp
    try:
        roomy = shutil.disk_usage(memory).free >= ROOM
    except OSError:  # not Linux
        return None
    return str(memory) if roomy and os.access(memory, os.W_OK | os.X_OK) else None


@pytest.fixture(scope="session")
def server_url() -> Iterator[URL]:
    """A PostgreSQL server: `TEST_DATABASE_URL`, or one of our own for the session."""
    given = os.environ.get("TEST_DATABASE_URL")
    if given:
        yield database_url(given)
        return
    with tempfile.TemporaryDirectory(
        prefix="mb-", dir=folder_in_memory(), ignore_cleanup_errors=True
    ) as folder:
        Path(folder).chmod(0o755)
        server = start(Path(folder) / "pg", settings=SERVER_SETTINGS)
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
