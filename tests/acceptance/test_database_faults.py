"""PostgreSQL is full, slow, used up or killed while webhooks come in: 503, and on by itself."""

import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import asyncpg
import httpx
import psutil
import pytest
from alembic import command

from app.commands.outgoing import signed_headers
from app.db import alembic_config, database_url
from app.embedded import RunningServer, start
from tests.acceptance.bridge import Bridge
from tests.acceptance.processes import until
from tests.acceptance.sender import SECRET, Message, Usage, message
from tests.dispatch.stripe_side import StripeSide
from tests.embedded.processes import servers_on

pytestmark = pytest.mark.acceptance


@pytest.fixture
def server() -> Iterator[RunningServer]:
    """A PostgreSQL of the test's own, with few connections, and an empty schema."""
    with tempfile.TemporaryDirectory(prefix="mb-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        running = start(Path(folder) / "pg", settings={"max_connections": "20"})
        try:
            command.upgrade(alembic_config(database_url(running.url)), "head")
            yield running
        finally:
            running.stop()


class Receiving:
    """A service that receives, and its sender."""

    def __init__(self, bridge: Bridge, address: str, client: httpx.AsyncClient) -> None:
        self.bridge = bridge
        self.url = f"{address}/webhooks/openmeter"
        self.client = client
        self.accepted: set[str] = set()

    async def send(self, entry: Message) -> httpx.Response:
        """One attempt."""
        headers = signed_headers(SECRET, entry.svix_id, entry.body)
        answer = await self.client.post(self.url, content=entry.body, headers=headers)
        if answer.is_success:
            self.accepted.add(entry.svix_id)
        return answer

    async def is_refused(self) -> None:
        """A new webhook is told to come again."""
        answer = await self.send(message(Usage(9, 0, 1)))
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5"), answer.text
        assert answer.json()["type"] == "urn:meterbridge:problem:database-unavailable"

    async def goes_on(self) -> None:
        """A new webhook is taken, after a moment at most."""
        entry = message(Usage(9, 0, 1))

        async def taken() -> bool:
            answer = await self.send(entry)
            assert answer.status_code in (200, 202, 503), answer.text
            return answer.is_success

        await until(taken, "a webhook is taken")


@asynccontextmanager
async def full(admin: asyncpg.Connection) -> AsyncIterator[None]:
    """No row can be written: SQLSTATE 53100."""
    await admin.execute(
        """
        create function no_room() returns trigger language plpgsql as $$
            begin raise exception using errcode = '53100'; end $$;
        create trigger full_disk before insert on deliveries execute function no_room()
        """
    )
    yield
    await admin.execute("drop function no_room cascade")


@asynccontextmanager
async def locked(admin: asyncpg.Connection) -> AsyncIterator[None]:
    """Every statement waits, as behind a migration of somebody else's."""
    async with admin.transaction():
        await admin.execute("lock table deliveries in access exclusive mode")
        yield


@asynccontextmanager
async def used_up(admin: asyncpg.Connection, address: str) -> AsyncIterator[None]:
    """No connection is left: SQLSTATE 53300."""
    await admin.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity "
        "where pid <> pg_backend_pid() and datname = current_database()"
    )
    async with AsyncExitStack() as stack:
        while True:
            try:
                taken = await asyncpg.connect(address)
            except asyncpg.TooManyConnectionsError:
                break
            stack.push_async_callback(taken.close)
        yield


async def test_every_fault_of_the_database_is_a_503_and_passes(
    server: RunningServer, tmp_path: Path, stripe: StripeSide
) -> None:
    bridge = Bridge(tmp_path, database_url(server.url), stripe)
    try:
        service, address = await bridge.serve("--no-worker")
        async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
            receiving = Receiving(bridge, address, client)
            await receiving.goes_on()
            admin = await asyncpg.connect(bridge.address)
            for fault in (full(admin), locked(admin), used_up(admin, bridge.address)):
                async with fault:
                    await receiving.is_refused()
                await receiving.goes_on()
            [postmaster] = servers_on(server.server.data_dir)
            postmaster.kill()
            psutil.wait_procs([postmaster], timeout=30)
            await receiving.goes_on()
        # The connection for notifications has come back, too.
        await bridge.at_work(1)
        rows = await bridge.rows("select svix_id, state from deliveries")
        assert {row["svix_id"] for row in rows} >= receiving.accepted
        assert {row["state"] for row in rows} == {"received"}
        assert "Traceback" not in service.output()
        assert await service.stop() == 0
    finally:
        bridge.kill_all()
        bridge.show_logs()
