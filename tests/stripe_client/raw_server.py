"""A server on a loopback socket that does to its connections whatever a test tells it."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from app.stripe_client import StripeClient
from tests.stripe_client import bodies
from tests.stripe_client.conftest import API_KEY

HEAD = b"HTTP/1.1 200 OK\r\nStripe-Version: 2025-02-24.acacia\r\nContent-Type: application/json\r\n"


class RawServer:
    """Reads requests and hands each to `behave(connection)`; keeps what it read."""

    def __init__(self, behave: Callable[["Connection"], Awaitable[None]]) -> None:
        self.requests: list[bytes] = []
        self.connections = 0
        self.open = 0
        self.url = ""
        self._behave = behave

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        connection = Connection(self, reader, writer, number=self.connections)
        try:
            while await connection.read_request():
                await self._behave(connection)
                if connection.done:
                    break
        except ConnectionError:
            pass  # the client has gone, as some tests want it to
        finally:
            self.open -= 1
            writer.close()


class Connection:
    """One connection, from the server's side."""

    def __init__(
        self,
        server: RawServer,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        number: int,
    ) -> None:
        self.number = number
        self.done = False
        self._server = server
        self._reader = reader
        self._writer = writer

    async def read_request(self) -> bool:
        try:
            head = await self._reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return False
        length = next(
            (
                int(line.split(b":")[1])
                for line in head.split(b"\r\n")
                if line.lower().startswith(b"content-length:")
            ),
            0,
        )
        self._server.requests.append(head + await self._reader.readexactly(length))
        return True

    async def send(self, raw: bytes) -> None:
        self._writer.write(raw)
        await self._writer.drain()

    async def answer(self, body: Any, *, status: str = "200 OK", more: bytes = b"") -> None:
        content = json.dumps(body).encode()
        headers = "".join(f"{name}: {value}\r\n" for name, value in bodies.VERSION.items()).encode()
        await self.send(
            b"HTTP/1.1 %s\r\n%s%sContent-Length: %d\r\n\r\n%s"
            % (status.encode(), headers, more, len(content), content)
        )

    def hang_up(self) -> None:
        """Close in an orderly way (FIN)."""
        self.done = True

    def reset(self) -> None:
        """Close at once (RST): nothing more is sent, not even what is buffered."""
        self.done = True
        self._writer.transport.abort()

    async def until_client_leaves(self) -> None:
        self.done = True
        await self._reader.read()


@asynccontextmanager
async def raw_server(behave: Callable[[Connection], Awaitable[None]]) -> AsyncIterator[RawServer]:
    """A running server; every connection is closed at the end."""
    server = RawServer(behave)
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(server.serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    listener = await asyncio.start_server(accept, "127.0.0.1", 0)
    host, port = listener.sockets[0].getsockname()
    server.url = f"http://{host}:{port}"
    try:
        yield server
    finally:
        listener.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await listener.wait_closed()


def client_of(url: str, **settings: Any) -> StripeClient:
    return StripeClient(api_key=API_KEY, base_url=url, **settings)


@asynccontextmanager
async def bridge(
    behave: Callable[[Connection], Any], **settings: Any
) -> AsyncIterator[tuple[StripeClient, RawServer]]:
    async with raw_server(behave) as server, client_of(server.url, **settings) as client:
        yield client, server


async def proper(connection: Connection) -> None:
    await connection.answer(bodies.usage_record())


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)
