"""The edge: webhooks are answered as by their route, and /v1 asks for the token before the body."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from fastapi import Request
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from structlog.testing import capture_logs

from app.routers.edge import Api
from tests.routers.webhook_sender import (
    PATH,
    Headers,
    Receiver,
    encoded,
    receiving,
    report,
    signed,
)

BODY = encoded(report())
KNOWN = encoded({"type": "invoice.created"})

REQUESTS: dict[str, tuple[str, bytes, Callable[[bytes], Headers], int]] = {
    "accepted": (PATH, BODY, signed, 202),
    "accepted under a slash": (PATH + "/", BODY, signed, 202),
    "ignored": (PATH, KNOWN, signed, 202),
    "forged": (PATH, BODY, lambda body: signed(body, key=b"x" * 32), 401),
    "unsigned": (PATH, BODY, lambda _: [], 401),
    "packed": (PATH, BODY, lambda body: [*signed(body), (b"content-encoding", b"gzip")], 415),
    "too large": (PATH, b"x" * (1024 * 1024 + 1), signed, 413),
    "not a report": (PATH, encoded(report(meter={})), signed, 422),
    "of an unknown type": (PATH, encoded({"type": "unheard"}), signed, 400),
    "elsewhere": (PATH + "/x", BODY, signed, 404),
}


@pytest.fixture
async def both_ways(engine: AsyncEngine) -> AsyncIterator[tuple[Receiver, Receiver]]:
    """The same receiver behind the edge, and with nothing before its routes."""
    async with receiving(engine) as behind, receiving(engine, edge=False) as bare:
        yield behind, bare


@pytest.mark.parametrize(("url", "body", "sign", "status"), REQUESTS.values(), ids=REQUESTS)
async def test_the_fast_path_answers_as_the_route_does(
    both_ways: tuple[Receiver, Receiver],
    engine: AsyncEngine,
    url: str,
    body: bytes,
    sign: Callable[[bytes], Headers],
    status: int,
) -> None:
    answers = []
    for receiver in both_ways:
        async with engine.begin() as connection:
            await connection.execute(text("delete from deliveries"))
        answer = await receiver.send(body, sign(body), url=url)
        answers.append((answer.status_code, answer.headers.raw, answer.content))
    assert answers[0] == answers[1]
    assert answers[0][0] == status


async def test_the_fast_path_is_taken(engine: AsyncEngine) -> None:
    """Without this the test above would hold for an edge that hands everything on."""
    async with receiving(engine) as receiver:
        receiver.app.router.routes.clear()
        assert (await receiver.send(BODY)).status_code == 202
        assert (await receiver.client.get(PATH)).status_code == 404


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([], 401),
        (signed(BODY)[:2], 401),
        ([(name, b"1" if b"time" in name else value) for name, value in signed(BODY)], 401),
        ([*signed(BODY), (b"content-encoding", b"br")], 415),
        ([*signed(BODY), (b"content-length", b"1048577")], 413),
    ],
    ids=["unsigned", "half signed", "stale", "packed", "too large"],
)
async def test_a_webhook_that_its_headers_condemn_is_not_read(
    engine: AsyncEngine, headers: Headers, status: int
) -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        pytest.fail("the body was asked for")

    async def send(message: Any) -> None:
        sent.append(message)

    async with receiving(engine) as receiver:
        scope = {"type": "http", "method": "POST", "path": PATH, "headers": headers}
        await receiver.app(scope, receive, send)
    assert sent[0]["status"] == status


class Settings:
    """As far as the gate looks at them."""

    def __init__(self, tokens: tuple[Any, ...]) -> None:
        self.admin_tokens = tokens


class Token:
    """A token of the settings."""

    def get_secret_value(self) -> str:
        return "an-admin-token"


@pytest.mark.parametrize(
    ("tokens", "given", "status"),
    [
        ((Token(),), [], 401),
        ((Token(),), [(b"authorization", b"Bearer wrong")], 401),
        ((), [(b"authorization", b"Bearer an-admin-token")], 503),
        ((Token(),), [(b"authorization", b"bearer an-admin-token")], 200),
    ],
)
async def test_a_body_for_v1_is_not_read_before_the_token_is_right(
    tokens: tuple[Token, ...], given: Headers, status: int
) -> None:
    read: list[int] = []
    sent: list[Any] = []
    app = Api()

    class Built:
        settings = Settings(tokens)

    app.state.services = Built()

    @app.put("/v1/mappings")
    async def route(request: Request) -> bytes:
        return await request.body()

    async def receive() -> Any:
        read.append(1)
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "PUT", "path": "/v1/mappings", "headers": given}
    await app({**scope, "query_string": b"", "root_path": ""}, receive, send)
    assert sent[0]["status"] == status
    assert len(read) == (1 if status == 200 else 0)
    headers = dict(sent[0]["headers"])
    assert headers[b"cache-control"] == b"no-store"
    assert headers[b"x-content-type-options"] == b"nosniff"


async def test_what_nobody_foresaw_is_a_problem_on_the_fast_path_too(engine: AsyncEngine) -> None:
    async with receiving(engine) as receiver:
        del receiver.app.state.services
        transport = httpx.ASGITransport(receiver.app, raise_app_exceptions=False)
        with capture_logs() as logs:
            async with httpx.AsyncClient(transport=transport, base_url="http://bridge") as client:
                answer = await client.post(PATH, content=BODY, headers=signed(BODY))
    assert answer.status_code == 500
    assert answer.json()["type"] == "urn:meterbridge:problem:internal"
    assert [line["event"] for line in logs] == ["unforeseen_error"]
