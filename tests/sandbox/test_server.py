"""The sandbox on a real socket, and as a process."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import httpx
import pytest
from uvicorn.server import ServerState

from app.sandbox.server import bind, build_server, create_sandbox, url_of
from tests.sandbox.conftest import Live
from tests.sandbox.world import AUTH, NOW

_PATH = "/v1/subscription_items/si_1/usage_records"


def _use(live: Live, quantity: int = 1, key: str | None = None) -> httpx.Response:
    headers = AUTH | ({} if key is None else {"Idempotency-Key": key})
    form = {"quantity": str(quantity), "timestamp": str(NOW)}
    return live.client.post(_PATH, data=form, headers=headers)


@pytest.mark.parametrize(
    ("when", "reset", "error"),
    [
        ("before_execution", False, httpx.RemoteProtocolError),
        ("before_execution", True, httpx.ReadError),
        ("after_execution", False, httpx.RemoteProtocolError),
        ("after_execution", True, httpx.ReadError),
        ("mid_answer", False, httpx.RemoteProtocolError),
    ],
)
def test_a_cut_really_ends_the_connection(
    live: Live, when: str, *, reset: bool, error: type[Exception]
) -> None:
    live.control("POST", "/faults", {"kind": "cut", "when": when, "reset": reset})
    with pytest.raises(error):
        _use(live)
    assert len(live.ledger()) == (0 if when == "before_execution" else 1)
    assert _use(live).status_code == 200


class _Written(asyncio.Transport):
    """A transport that keeps every single write."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes.append(bytes(data))

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        pass


async def test_head_and_body_of_an_answer_are_one_write() -> None:
    config = build_server(create_sandbox()).config
    config.load()
    protocol = cast("Any", config.http_protocol_class)(
        config=config, server_state=ServerState(), app_state={}
    )
    transport = _Written()
    protocol.connection_made(transport)
    for answers in (1, 2):
        protocol.data_received(b"GET /v1/prices HTTP/1.1\r\nHost: sandbox\r\n\r\n")
        async with asyncio.timeout(10):
            while len(transport.writes) < answers:
                await asyncio.sleep(0)
    for answer in transport.writes:
        assert answer.startswith(b"HTTP/1.1 401 Unauthorized\r\n")
        assert answer.endswith(b"}")
    protocol.connection_lost(None)


def test_an_answer_comes_twice_on_its_connection(live: Live) -> None:
    live.control("POST", "/faults", {"kind": "duplicate_answer"})
    form = f"quantity=1&timestamp={NOW}"
    lines = [f"POST {_PATH} HTTP/1.1", "Host: sandbox", *(f"{n}: {v}" for n, v in AUTH.items())]
    lines += ["Content-Type: application/x-www-form-urlencoded", f"Content-Length: {len(form)}"]
    url = httpx.URL(live.url)
    with socket.create_connection((url.host, url.port or 0), timeout=20) as connection:
        connection.sendall("\r\n".join([*lines, "", form]).encode())
        received = b""
        while received.count(b'"object": "usage_record"') < 2:
            chunk = connection.recv(65_536)
            assert chunk, received
            received += chunk
    assert received.count(b"HTTP/1.1 200 OK\r\n") == 2
    assert len(live.ledger()) == 1


def test_a_read_is_cut_too(live: Live) -> None:
    live.control("POST", "/faults", {"kind": "cut", "when": "after_execution"})
    with pytest.raises(httpx.RemoteProtocolError):
        live.client.get("/v1/customers", headers=AUTH)
    counts = live.control("GET", "/requests")["operations"]["list_customers"]
    assert counts["cut"] == 1


def test_a_client_that_gives_up_is_executed_all_the_same(live: Live) -> None:
    live.control("POST", "/faults", {"kind": "latency", "ms": 400, "phase": "answer"})
    with pytest.raises(httpx.ReadTimeout):
        live.client.post(
            _PATH,
            data={"quantity": "1", "timestamp": str(NOW)},
            headers=AUTH | {"Idempotency-Key": "k"},
            timeout=httpx.Timeout(20, read=0.1),
        )
    assert _use(live, key="k").headers["idempotent-replayed"] == "true"
    assert len(live.ledger()) == 1


def test_one_key_from_many_threads_is_executed_once(live: Live) -> None:
    live.control("PATCH", "/settings", {"limit_per_second": 0, "write_latency_ms": 20})
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: _use(live, key="k"), range(40)))
    assert {answer.status_code for answer in answers} <= {200, 409}
    assert [answer.status_code for answer in answers].count(200) >= 1
    assert len(live.ledger()) == 1


@pytest.mark.parametrize(
    ("host", "start"), [("127.0.0.1", "http://127.0.0.1:"), ("::1", "http://[::1]:")]
)
def test_port_zero_is_a_free_port(host: str, start: str) -> None:
    try:
        bound = bind(host, 0)
    except OSError:
        assert host == "::1", "no IPv4 loopback"
        return
    with bound:
        url = url_of(bound)
        assert url.startswith(start)
        assert int(url.removeprefix(start)) > 0
        with pytest.raises(OSError, match="in use"):
            bind(host, int(url.removeprefix(start)))


_PROGRAM = (
    "from app.sandbox.server import serve;"
    "serve('127.0.0.1', 0, frozenset({'sk_test_given'}), limit_per_second=0)"
)


@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGINT])
def test_serve_prints_its_url_and_stops_when_told(told: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("Stripe sandbox listening on http://127.0.0.1:")
        url = line.split()[-1]
        answer = httpx.get(
            f"{url}/v1/customers", headers={"Authorization": "Bearer sk_test_given"}, timeout=20
        )
        assert answer.json()["data"] == []
        assert httpx.get(f"{url}/v1/customers", headers=AUTH, timeout=20).status_code == 401
        settings = httpx.get(f"{url}/_sandbox/settings", timeout=20).json()
        assert settings["limit_per_second"] == 0
        os.kill(process.pid, told)
        _, errors = process.communicate(timeout=20)
        assert process.returncode in {0, -told}
        assert errors == ""
    finally:
        process.kill()
        process.communicate()
