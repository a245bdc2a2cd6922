"""The real program on a fresh database, with a sandbox in a process of its own."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from sqlalchemy.engine import URL

from tests.acceptance.bridge import Bridge
from tests.acceptance.processes import Program, answering
from tests.dispatch.stripe_side import StripeSide
from tests.ports import free_port


@pytest.fixture(scope="session")
def sandbox_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StripeSide]:
    """One sandbox for the session; each test starts it over."""
    port = free_port()
    log = tmp_path_factory.mktemp("sandbox") / "sandbox.log"
    program = Program(["sandbox", "--port", str(port)], settings={}, log=log)
    try:
        side = StripeSide(f"http://127.0.0.1:{port}")
        asyncio.run(answering(f"{side.url}/_sandbox/clock", program))
        yield side
    finally:
        program.kill()


@pytest.fixture
def stripe(sandbox_process: StripeSide) -> StripeSide:
    """A sandbox with subscriptions sub_1 to sub_5 of one item each."""
    sandbox_process.start_over()
    sandbox_process.subscribe(range(1, 6))
    return sandbox_process


@pytest.fixture
async def bridge(tmp_path: Path, fresh_url: URL, stripe: StripeSide) -> AsyncIterator[Bridge]:
    """A bridge without a process yet."""
    built = Bridge(tmp_path, fresh_url, stripe)
    try:
        yield built
    finally:
        built.kill_all()
        built.show_logs()
