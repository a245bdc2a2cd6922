"""A pooler before PostgreSQL, as PgBouncer is: by session, or by transaction on one session."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from sqlalchemy.engine import URL

from app.database_address import Pooler

# What the server says at a login that the client has to answer.
_ASKS = frozenset((3, 5, 7, 8, 10, 11))


Connected = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None] | None]


@asynccontextmanager
async def way_to(
    url: URL, connected: Connected, tasks: Collection[asyncio.Task[None]]
) -> AsyncIterator[URL]:
    """The address of a database by way of `connected`, whose `tasks` end with the block."""
    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    bare = url.difference_update_query(["host", "port"]).set(host="127.0.0.1", port=port)
    try:
        yield bare.update_query_dict({"ssl": "disable"})
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _message(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readexactly(5)
    return head + await reader.readexactly(int.from_bytes(head[1:]) - 4)


@dataclass(slots=True, eq=False)
class _Client:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    holds: bool = False


@dataclass(slots=True, eq=False)
class StandInPooler:
    """Every client logs in at the server itself, and is told a process that is none there.

    By transaction all of them then use the first one's session, each until it is idle. `refuses` is
    a parameter of the login that it does not take.
    """

    url: URL
    mode: Pooler
    refuses: bytes | None = None
    _one_at_a_time: asyncio.Lock = field(default_factory=asyncio.Lock)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _writers: list[asyncio.StreamWriter] = field(default_factory=list)
    _shared: asyncio.StreamWriter | None = None
    _served: _Client | None = None
    _logins: int = 0

    @asynccontextmanager
    async def way(self) -> AsyncIterator[URL]:
        """Its address, which says nothing about it."""
        try:
            async with way_to(self.url, self._connected, self._tasks) as address:
                yield address
        finally:
            for opened in self._writers:
                opened.close()
            ends = (opened.wait_closed() for opened in self._writers)
            await asyncio.gather(*ends, return_exceptions=True)

    def held(self) -> bool:
        """By transaction: whether a client is in one, and has the session for itself."""
        return self._served is not None

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        self._tasks.add(asyncio.create_task(self._serve(_Client(reader, writer))))

    async def _serve(self, client: _Client) -> None:
        try:
            server = await self._login(client)
            if server is None:
                return
            if self.mode is Pooler.SESSION:
                await self._by_session(client, *server)
            else:
                await self._by_transaction(client, *server)
        except asyncio.IncompleteReadError:
            pass  # either has gone
        finally:
            client.writer.close()

    async def _login(
        self, client: _Client
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        size = await client.reader.readexactly(4)
        asked = await client.reader.readexactly(int.from_bytes(size) - 4)
        if self.refuses is not None and self.refuses in asked.split(b"\0"):
            fields = (b"SFATAL", b"C08P01", b"Munsupported startup parameter: " + self.refuses, b"")
            said = b"\0".join(fields) + b"\0"
            client.writer.write(b"E" + (len(said) + 4).to_bytes(4) + said)
            return None
        folder, port = self.url.query.get("host"), self.url.port or 5432
        reader, writer = await (
            asyncio.open_unix_connection(f"{folder}/.s.PGSQL.{port}")
            if folder
            else asyncio.open_connection(self.url.host, port)
        )
        self._writers.append(writer)
        writer.write(size + asked)
        while True:
            said = await _message(reader)
            if said[:1] == b"K":  # the process, and the key to cancel what it does
                self._logins += 1
                said = said[:5] + (-self._logins).to_bytes(4, signed=True) + said[9:]
            client.writer.write(said)
            if said[:1] == b"R" and int.from_bytes(said[5:9]) in _ASKS:
                writer.write(await _message(client.reader))
            if said[:1] == b"Z":
                return reader, writer

    async def _by_session(
        self, client: _Client, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        async def answers() -> None:
            while data := await reader.read(65_536):
                client.writer.write(data)
            client.writer.close()

        self._tasks.add(asyncio.create_task(answers()))
        try:
            while data := await client.reader.read(65_536):
                writer.write(data)
        finally:
            writer.close()

    async def _by_transaction(
        self, client: _Client, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if self._shared is None:
            self._shared = writer
            self._tasks.add(asyncio.create_task(self._answer(reader)))
        else:
            writer.close()
        while (said := await _message(client.reader))[:1] != b"X":
            if not client.holds:
                await self._one_at_a_time.acquire()
                client.holds, self._served = True, client
            self._shared.write(said)

    async def _answer(self, reader: asyncio.StreamReader) -> None:
        while True:
            said = await _message(reader)
            client = self._served
            assert client is not None
            client.writer.write(said)
            if said[:1] == b"Z" and said[5:] == b"I":  # ready, and in no transaction
                client.holds, self._served = False, None
                self._one_at_a_time.release()
