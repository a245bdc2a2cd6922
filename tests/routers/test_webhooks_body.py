"""Reading a body: bounds of size and time, and senders that go away."""

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from structlog.testing import capture_logs

from app.errors import BodyTooLarge, Overloaded
from app.inbox.arriving import ArrivingBodies
from app.routers.body import read_body
from app.routers.problems import install_problem_handlers

Message = dict[str, Any]


def chunk(body: bytes, *, more: bool = True) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


class Sender:
    """Sends its messages, then nothing more."""

    def __init__(self, messages: Iterable[Message]) -> None:
        self.left = list(messages)

    async def __call__(self) -> Message:
        if not self.left:
            await asyncio.Event().wait()
        return self.left.pop(0)


async def read(sender: Sender, declared: bytes = b"", *, seconds: float = 60) -> bytes:
    return await read_body(sender, declared, limit=10, seconds=seconds, room=ArrivingBodies())


@pytest.mark.parametrize(
    ("messages", "body"),
    [
        ([chunk(b"", more=False)], b""),
        ([chunk(b"0123456789", more=False)], b"0123456789"),
        ([chunk(b"01234"), chunk(b""), chunk(b"56789"), chunk(b"", more=False)], b"0123456789"),
    ],
)
async def test_within_the_limit(messages: list[Message], body: bytes) -> None:
    assert await read(Sender(messages)) == body


@pytest.mark.parametrize("declared", [b"11", b"00011", b"9" * 5000])
async def test_a_length_over_the_limit_is_refused_before_reading(declared: bytes) -> None:
    sender = Sender([chunk(b"0", more=False)])
    with pytest.raises(BodyTooLarge):
        await read(sender, declared)
    assert len(sender.left) == 1


@pytest.mark.parametrize("declared", [b"", b"1", b"10", b"-5", b"x", b"0010", b"\xb2"])
async def test_a_length_that_says_less_is_not_believed(declared: bytes) -> None:
    sender = Sender([chunk(b"01234"), chunk(b"567890"), chunk(b"never"), chunk(b"", more=False)])
    with pytest.raises(BodyTooLarge):
        await read(sender, declared)
    assert len(sender.left) == 2  # it stopped as soon as it knew


async def test_a_sender_that_trickles_is_given_up() -> None:
    with pytest.raises(HTTPException) as caught:
        await read(Sender([chunk(b"0")]), seconds=0.05)
    assert caught.value.status_code == 408
    assert caught.value.headers == {"Connection": "close"}


async def test_a_sender_that_goes_away() -> None:
    with pytest.raises(ClientDisconnect):
        await read(Sender([chunk(b"0"), {"type": "http.disconnect"}]))


async def test_a_sender_that_goes_away_is_no_error_of_ours() -> None:
    app = FastAPI()
    install_problem_handlers(app)

    @app.post("/")
    async def read_all(request: Request) -> Response:
        body = await read_body(request.receive, b"", limit=10, seconds=60, room=ArrivingBodies())
        return Response(body)

    sent: list[Message] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/",
        "raw_path": b"/",
        "query_string": b"",
        "root_path": "",
        "headers": [],
        "http_version": "1.1",
        "scheme": "http",
        "asgi": {"version": "3.0"},
    }
    with capture_logs() as logs:
        await app(scope, Sender([chunk(b"0"), {"type": "http.disconnect"}]), send)
    assert sent[0]["status"] == 400
    assert logs == []


MIB = 1024 * 1024


@pytest.mark.parametrize(
    ("declared", "free"),
    [
        (b"0", True),
        (b"000", True),
        (b"65536", True),
        (b"65537", False),
        (b"", False),
        (b"x", False),
    ],
)
async def test_large_bodies_share_a_bounded_memory_and_small_ones_need_none(
    declared: bytes, free: bool
) -> None:
    room = ArrivingBodies(limit=MIB)
    whole = Sender([chunk(b"all", more=False)])
    with room.reserve(MIB):
        reading = read_body(whole, declared, limit=MIB, seconds=60, room=room)
        if free:
            assert await reading == b"all"
        else:
            with pytest.raises(Overloaded):
                await reading
    # What was refused, or has ended in whatever way, holds nothing.
    with pytest.raises(ClientDisconnect):
        await read_body(
            Sender([{"type": "http.disconnect"}]), declared, limit=MIB, seconds=60, room=room
        )
    with room.reserve(MIB):
        pass
