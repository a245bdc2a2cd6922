"""A PostgreSQL of the bench's own, and a fresh database for each figure.

As durable as it comes (fsync, synchronous commits, on a disk): a bench without would lie about the
one thing that group commit is for.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from app.db import database_url
from app.embedded import EmbeddedServer, embedded_postgres
from app.embedded.server import ROLE
from app.migrating import migrate

_TEMPLATE = "bench_template"
_SUPERUSER = "postgres"

Connection = asyncpg.Connection


@dataclass(frozen=True, slots=True)
class Database:
    """One database. `url` is what DATABASE_URL takes."""

    name: str
    socket_dir: Path

    @property
    def url(self) -> str:
        """Its address, over the server's Unix socket."""
        return f"postgresql://{ROLE}@/{self.name}?host={self.socket_dir}"

    @asynccontextmanager
    async def connect(self, *, superuser: bool = False) -> AsyncIterator[Connection]:
        """A connection of the bench's own."""
        connection = await asyncpg.connect(
            host=str(self.socket_dir),
            user=_SUPERUSER if superuser else ROLE,
            database=self.name,
            server_settings={"timezone": "UTC"},
        )
        try:
            yield connection
        finally:
            await connection.close()


@dataclass(frozen=True, slots=True)
class Server:
    """The server. `embedded.pid` is the postmaster, whose children are its sessions."""

    embedded: EmbeddedServer

    def database(self, name: str) -> Database:
        """A database by its name, whether it is there or not."""
        return Database(name, self.embedded.socket_dir)

    async def fresh(self, name: str) -> Database:
        """An empty database, built by the real migrations. One of that name is dropped."""
        await self.drop(self.database(name))
        async with self.database("postgres").connect() as connection:
            await connection.execute(f"create database {name} template {_TEMPLATE}")
        return self.database(name)

    async def drop(self, database: Database) -> None:
        """Drop a database: the great ones take gigabytes."""
        # As the superuser: autovacuum may be at it, and the database's owner may not end that.
        async with self.database("postgres").connect(superuser=True) as connection:
            await connection.execute(f"drop database if exists {database.name} with (force)")

    async def version(self) -> str:
        """Which PostgreSQL it is, and the settings that decide what a commit costs."""
        async with self.database("postgres").connect() as connection:
            shown = {
                name: await connection.fetchval(f"show {name}")
                for name in ("server_version", "fsync", "synchronous_commit", "shared_buffers")
            }
        number = shown.pop("server_version")
        return f"{number} ({', '.join(f'{name} {value}' for name, value in shown.items())})"


@asynccontextmanager
async def open_server(folder: Path) -> AsyncIterator[Server]:
    """Start a server in `folder`; it ends with the block."""
    async with embedded_postgres(folder) as embedded:
        server = Server(embedded)
        async with server.database("postgres").connect() as connection:
            await connection.execute(f"create database {_TEMPLATE}")
        await migrate(database_url(server.database(_TEMPLATE).url))
        await _unused(server)
        yield server


async def _unused(server: Server) -> None:
    """Wait until nobody is connected to the template: it could not be copied."""
    async with server.database("postgres").connect() as connection:
        while await connection.fetchval(  # noqa: ASYNC110 - nothing tells; it takes a moment
            "select count(*) from pg_stat_activity where datname = $1", _TEMPLATE
        ):
            await asyncio.sleep(0.05)
