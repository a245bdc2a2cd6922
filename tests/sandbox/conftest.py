"""Sandboxes for tests: one in-process for each test, and one on a real port for the session."""

import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from app.sandbox.server import SandboxApp, bind, build_server, create_sandbox, url_of
from tests.sandbox.world import NOW, START, World

_OBJECTS: tuple[tuple[str, dict[str, object]], ...] = (
    ("/customers", {"id": "cus_1", "email": "a@example.com"}),
    ("/prices", {"id": "price_1", "lookup_key": "tokens"}),
    (
        "/subscriptions",
        {
            "id": "sub_1",
            "customer": "cus_1",
            "start_date": START,
            "items": [{"id": "si_1", "price": "price_1"}],
        },
    ),
)


@pytest.fixture(scope="session")
def shared_app() -> SandboxApp:
    """One application for the session: putting its routes together takes longer than a test."""
    return create_sandbox()


@pytest.fixture
def app(shared_app: SandboxApp) -> SandboxApp:
    """A sandbox at its start, its clock standing in the middle of March 2026."""
    shared_app.state.sandbox.reset()
    shared_app.state.sandbox.move_clock(NOW, frozen=True)
    return shared_app


@pytest.fixture
async def empty(app: SandboxApp) -> AsyncIterator[World]:
    """A sandbox without objects, spoken to in-process."""
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://sandbox") as client:
        yield World(client)


@pytest.fixture
async def world(empty: World) -> World:
    """A sandbox with one subscription of one item, whose period is March 2026."""
    for path, body in _OBJECTS:
        await empty.control("POST", path, body)
    return empty


@dataclass(frozen=True)
class Live:
    """A sandbox on a real port."""

    url: str
    client: httpx.Client

    def control(self, method: str, path: str, body: object = None) -> Any:
        """Call the control API, which must agree."""
        answer = self.client.request(method, f"/_sandbox{path}", json=body)
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None

    def ledger(self) -> list[dict[str, Any]]:
        """The executed usage-record calls."""
        calls: list[dict[str, Any]] = self.control("GET", "/ledger")["calls"]
        return calls


@pytest.fixture(scope="session")
def server_of_sandbox() -> Iterator[Live]:
    """One server for the session; each test starts it over."""
    with bind("127.0.0.1", 0) as bound:
        server = build_server(create_sandbox())
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        deadline = time.monotonic() + 20
        while not server.started and time.monotonic() < deadline:
            time.sleep(0.01)
        with httpx.Client(base_url=url_of(bound), timeout=20) as client:
            yield Live(url_of(bound), client)
        server.should_exit = True
        thread.join(timeout=20)


@pytest.fixture
def live(server_of_sandbox: Live) -> Live:
    """A real server with one subscription of one item, its clock in March 2026."""
    server_of_sandbox.control("POST", "/reset")
    server_of_sandbox.control("PUT", "/clock", {"at": NOW, "frozen": True})
    for path, body in _OBJECTS:
        server_of_sandbox.control("POST", path, body)
    return server_of_sandbox
