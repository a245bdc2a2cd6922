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
from app.routers.body import check_length, read_body
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


async def read(sender: Sender, *, seconds: float = 60) -> bytes:
    return await read_body(sender, limit=10, seconds=seconds, room=ArrivingBodies())


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
def test_a_length_over_the_limit_is_refused(declared: bytes) -> None:
    with pytest.raises(BodyTooLarge):
        check_length(declared, limit=10)


@pytest.mark.parametrize("declared", [b"", b"0", b"1", b"10", b"-5", b"x", b"0010", b"\xb2"])
def test_a_length_within_the_limit_or_none_is_left_to_the_reader(declared: bytes) -> None:
    check_length(declared, limit=10)


async def test_a_body_is_read_up_to_its_limit_whatever_it_announced() -> None:
    sender = Sender([chunk(b"01234"), chunk(b"567890"), chunk(b"never"), chunk(b"", more=False)])
    with pytest.raises(BodyTooLarge):
        await read(sender)
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
        body = await read_body(request.receive, limit=10, seconds=60, room=ArrivingBodies())
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


KIB = 1024


async def reading(room: ArrivingBodies, *messages: Message) -> asyncio.Task[bytes]:
    """A reader that has read all of `messages`."""
    sender = Sender(messages)
    task = asyncio.create_task(read_body(sender, limit=1024 * KIB, seconds=60, room=room))
    async with asyncio.timeout(30):
        while sender.left and not task.done():
            await asyncio.sleep(0)
    return task


async def test_for_lack_of_room_the_oldest_of_the_large_bodies_goes() -> None:
    room = ArrivingBodies(limit=300 * KIB)
    large = chunk(b"x" * 100 * KIB)
    small = [await reading(room, chunk(b"x" * 64 * KIB)) for _ in range(10)]
    slow = [await reading(room, large) for _ in range(3)]
    gone = await reading(room, large, large, {"type": "http.disconnect"})
    with pytest.raises(ClientDisconnect):
        await gone
    for dropped in slow[:2]:
        with pytest.raises(Overloaded):
            await dropped
    # What ended in whatever way holds nothing: there is room for two more beside the third.
    assert len(await (await reading(room, large, large, chunk(b"", more=False)))) == 200 * KIB
    await asyncio.sleep(0)
    left = [*small, slow[2]]
    assert not any(task.done() for task in left)
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


async def test_what_is_announced_and_does_not_arrive_takes_no_room() -> None:
    room = ArrivingBodies(limit=100 * KIB)
    forged = [await reading(room, chunk(b"{")) for _ in range(32)]
    large = chunk(b"x" * 100 * KIB)
    assert len(await (await reading(room, large, chunk(b"y", more=False)))) == 100 * KIB + 1
    assert not any(task.done() for task in forged)
    for task in forged:
        task.cancel()
    await asyncio.gather(*forged, return_exceptions=True)


async def test_a_body_larger_than_all_room_goes_itself() -> None:
    with pytest.raises(Overloaded):
        await (await reading(ArrivingBodies(limit=100 * KIB), chunk(b"x" * 101 * KIB)))


async def test_a_reader_that_somebody_else_cancels_is_cancelled() -> None:
    task = await reading(ArrivingBodies(), chunk(b"0"))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_body_that_ends_as_it_is_given_up_is_taken_and_nothing_is_cancelled_later() -> None:
    whole = Sender([chunk(b"x" * 101 * KIB), chunk(b"", more=False)])
    room = ArrivingBodies(limit=100 * KIB)
    body = await read_body(whole, limit=1024 * KIB, seconds=60, room=room)
    for _ in range(3):
        await asyncio.sleep(0)  # here the cancellation would come
    assert len(body) == 101 * KIB
