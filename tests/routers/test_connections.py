"""Clients that take their time, or more than their share: what a connection may cost."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import uvicorn
from structlog.testing import capture_logs

from app.commands.connections import ConnectionLimits, Connections

HELD = b"GET /held HTTP/1.1\r\nHost: x\r\n\r\n"
HEAD = b"POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n"
WHOLE = HEAD + b"\r\n0123456789"
LARGE = 50_000_000
EARLY = b"POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n"


class App:
    """`/read` reads the body before it answers, `/early` does not, `/large` says a lot.

    `/held` answers when it may `go`.
    """

    def __init__(self) -> None:
        self.requests = 0
        self.go = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.requests += 1
        body = b"x" * LARGE if scope["path"] == "/large" else b"ok"
        if scope["path"] == "/held":
            await self.go.wait()
        more = scope["path"] == "/read"
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            more = message["more_body"]
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


@dataclass(frozen=True, slots=True)
class Client:
    """One connection, byte by byte."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def answer(self) -> tuple[int, bytes]:
        """Status and body of the next answer."""
        async with asyncio.timeout(30):
            head = await self.reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            return int(head.split()[1]), await self.reader.readexactly(length)

    async def problem(self) -> tuple[int, str]:
        """Status and kind of an answer after which the connection is closed."""
        async with asyncio.timeout(30):
            head, _, body = (await self.reader.read()).partition(b"\r\n\r\n")
        assert b"application/problem+json" in head
        assert b"connection: close" in head
        found = json.loads(body)
        assert int(head.split()[1]) == found["status"]
        return found["status"], found["type"].rpartition(":")[2]

    async def send_for_ever(self) -> None:
        """Send until the connection is cut."""
        async with asyncio.timeout(30):
            while True:
                self.writer.write(b"x" * 65_536)
                await self.writer.drain()

    async def closed(self) -> bytes:
        """What is still sent until the server closes or cuts the connection."""
        try:
            async with asyncio.timeout(30):
                return await self.reader.read()
        except ConnectionResetError:
            return b""


@dataclass(frozen=True, slots=True)
class Server:
    """A server under test."""

    app: App
    uvicorn: uvicorn.Server

    @property
    def port(self) -> int:
        """Where it listens."""
        port: int = self.uvicorn.servers[0].sockets[0].getsockname()[1]
        return port

    @property
    def open(self) -> int:
        """Connections that it has."""
        return len(self.uvicorn.server_state.connections)

    @asynccontextmanager
    async def client(self, sends: bytes = b"") -> AsyncIterator[Client]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(sends)
        try:
            yield Client(reader, writer)
        finally:
            writer.transport.abort()


@asynccontextmanager
async def serving(*, linger: float = 0.2, **limits: Any) -> AsyncIterator[Server]:
    """A real server with limits that are met soon."""
    app = App()
    config = uvicorn.Config(
        app,
        http=Connections(ConnectionLimits(linger=linger, **limits)).protocol(),
        ws="none",
        lifespan="off",
        log_config=None,
    )
    server = uvicorn.Server(config)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        running = asyncio.create_task(server._serve([listening]))
        try:
            await until(lambda: server.started)
            yield Server(app, server)
        finally:
            app.go.set()
            server.should_exit = True
            await running


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


async def test_what_is_in_order_is_answered_again_and_again() -> None:
    async with serving() as server, server.client() as client:
        for _ in range(3):
            client.writer.write(HEAD)
            client.writer.write(b"\r\n01234")
            await client.writer.drain()
            client.writer.write(b"56789")
            assert await client.answer() == (200, b"ok")
        client.writer.write(WHOLE * 3)
        assert [await client.answer() for _ in range(3)] == [(200, b"ok")] * 3


@pytest.mark.parametrize(
    "sent",
    [b"P", HEAD, HEAD + b"\r\n0123", WHOLE + b"POST"],
    ids=["byte", "head", "body", "second"],
)
async def test_a_request_that_does_not_arrive_is_told_so(sent: bytes) -> None:
    async with serving(seconds=0.2) as server, server.client(sent) as client:
        if sent.startswith(WHOLE):
            assert await client.answer() == (200, b"ok")
        assert await client.problem() == (408, "request-timeout")


async def test_a_byte_now_and_then_is_no_excuse() -> None:
    async with serving(seconds=0.3) as server, server.client(HEAD + b"X-Slow: ") as client:

        async def trickle() -> None:
            while True:
                client.writer.write(b"x")
                await asyncio.sleep(0.02)

        trickling = asyncio.create_task(trickle())
        try:
            status, _ = await client.problem()
        finally:
            trickling.cancel()
        assert status == 408


async def test_a_body_that_nobody_waits_for_is_given_up_in_time() -> None:
    async with serving(seconds=0.2) as server, server.client(EARLY) as client:
        assert await client.answer() == (200, b"ok")
        assert await client.closed() == b""


async def test_a_body_that_nobody_waits_for_is_not_read_for_long() -> None:
    async with serving(ignored_bytes=100_000) as server, server.client(EARLY) as client:
        assert await client.answer() == (200, b"ok")
        with pytest.raises(ConnectionError):
            await client.send_for_ever()


async def test_who_does_not_take_an_answer_is_cut_off() -> None:
    large = b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n"
    async with serving(seconds=0.2) as server, server.client(large) as client:
        await until(lambda: server.app.requests == 1 and server.open == 0)
        assert len(await client.closed()) < LARGE


async def test_a_head_has_a_bound() -> None:
    async with serving(head_bytes=1_000) as server, server.client(HEAD) as client:
        client.writer.write((b"X-Long: " + b"x" * 500 + b"\r\n") * 5)
        assert await client.problem() == (431, "request-header-fields-too-large")


def posted(body: bytes) -> bytes:
    return b"POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


LONG = b"POST /read HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * 500
BEFORE = {
    "a body": posted(b"x" * 5_000),
    "a body like a head": posted(b"x" * 3_000 + b"\r\n\r\n" + b"x" * 900),
    "a body in pieces": b"POST /read HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    + b"1\r\nx\r\n" * 500
    + b"0\r\n\r\n",
    "heads": (b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * 700 + b"\r\n\r\n") * 3,
}


@pytest.mark.parametrize("before", BEFORE.values(), ids=BEFORE)
async def test_what_came_before_a_head_is_no_part_of_it(before: bytes) -> None:
    async with serving(head_bytes=1_000) as server, server.client(before + LONG) as client:
        for _ in range(3 if before is BEFORE["heads"] else 1):
            assert await client.answer() == (200, b"ok")
        client.writer.write(b"\r\nContent-Length: 2\r\n\r\nok" + before + LONG)
        for _ in range(4 if before is BEFORE["heads"] else 2):
            assert await client.answer() == (200, b"ok")
        # And it has its bound all the same, wherever in a read it begins.
        client.writer.write(b"x" * 600)
        assert await client.problem() == (431, "request-header-fields-too-large")


@pytest.mark.parametrize(
    ("held", "second", "status"),
    [
        (2, b"no http at all\r\n\r\n", 400),
        (2, HEAD + b"X-Long: " + b"x" * 2_000, 431),
        (1, HEAD + b"X-Slow: ", 408),
        (2, b"POST /read HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nno length\r\n", 400),
    ],
    ids=["no http", "too large", "too slow", "broken body"],
)
async def test_a_refusal_comes_after_the_answers_that_are_due(
    held: int, second: bytes, status: int
) -> None:
    with capture_logs() as logs:
        async with (
            serving(head_bytes=1_000, seconds=0.3) as server,
            server.client(HELD * held + second) as client,
        ):
            await until(lambda: len(logs) == 1)
            client.writer.write(WHOLE)  # not looked at
            server.app.go.set()
            assert [await client.answer() for _ in range(held)] == [(200, b"ok")] * held
            assert (await client.problem())[0] == status
    assert len(logs) == 1


async def test_what_is_no_http_is_a_problem_like_any_other() -> None:
    async with serving() as server, server.client(b"\x16\x03\x01 hello\r\n\r\n") as client:
        assert await client.problem() == (400, "bad-request")


async def test_one_too_many_takes_the_place_of_who_has_no_request() -> None:
    async with (
        serving(connections=2) as server,
        server.client(HELD) as busy,
        server.client() as idle,
    ):
        await until(lambda: server.app.requests == 1 and server.open == 2)
        with capture_logs() as logs:
            async with server.client(WHOLE) as late:
                assert await late.answer() == (200, b"ok")
                assert await idle.closed() == b""
                server.app.go.set()
                assert await busy.answer() == (200, b"ok")
        assert [line["event"] for line in logs] == ["connection_closed_for_another"]


async def test_bodies_that_do_not_arrive_keep_nobody_out() -> None:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(serving(connections=4))
        forged: list[Client] = []
        for _ in range(4):
            forged.append(await stack.enter_async_context(server.client(HEAD + b"\r\n0")))
            await until(lambda: server.app.requests == len(forged))
        for first in forged[:2]:
            honest = await stack.enter_async_context(server.client(WHOLE))
            assert await honest.answer() == (200, b"ok")
            assert await first.closed() == b""
        forged[2].writer.write(b"123456789")
        assert await forged[2].answer() == (200, b"ok")


async def test_one_too_many_is_refused_where_all_wait_for_answers() -> None:
    # The next request has begun already, and takes no claim away.
    async with serving(connections=1) as server, server.client(HELD + HEAD + b"\r\n") as busy:
        await until(lambda: server.app.requests == 1)
        async with server.client() as late:
            assert await late.problem() == (503, "overloaded")
        server.app.go.set()
        busy.writer.write(b"0123456789")
        assert [await busy.answer() for _ in range(2)] == [(200, b"ok")] * 2
        # An answer later it is the one that goes first.
        async with server.client(WHOLE) as late:
            assert await late.answer() == (200, b"ok")
        assert await busy.closed() == b""
