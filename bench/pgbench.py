"""The floor of receiving: one-row INSERTs by PostgreSQL's own pgbench, a commit each."""

import re
from pathlib import Path

from app.embedded.install import find_install
from app.embedded.server import PORT, ROLE
from bench.database import Database
from bench.processes import Process

CLIENTS = 32
# A key that counts, and the body as it was sent: the least that a durable inbox could keep.
_TABLE = "create table floor (id bigint generated always as identity primary key, body bytea)"
_INSERT = "insert into floor (body) values (:body)"
_TPS = re.compile(r"^tps = ([0-9.]+)", re.MULTILINE)


async def inserts_per_second(
    database: Database, body: bytes, *, seconds: float, folder: Path
) -> float:
    """One-row transactions a second of `CLIENTS` clients. `body` has no backslash."""
    async with database.connect() as connection:
        await connection.execute("drop table if exists floor")
        await connection.execute(_TABLE)
    script = folder / "insert.sql"
    script.write_text(_INSERT + "\n")
    command = [
        find_install().program("pgbench"),
        *("--no-vacuum", "--protocol=prepared"),
        *("--client", str(CLIENTS), "--jobs", "1", "--time", f"{seconds:.0f}"),
        *("--define", f"body={body.decode()}"),
        *("--file", str(script)),
        *("--host", str(database.socket_dir), "--port", str(PORT), "--username", ROLE),
        database.name,
    ]
    with Process("pgbench", command, folder=folder) as process:
        process.finish(seconds=seconds + 60)
        found = _TPS.search(process.said())
        if found is None:
            raise process.failure("told no figure")
    return float(found.group(1))
