"""What others need to know of a server that answers."""

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

ROLE = "meterbridge"
DATABASE = "meterbridge"
PORT = 5432
"""Only the name of the socket file: the server listens on no TCP port."""


@dataclass(frozen=True, slots=True)
class EmbeddedServer:
    """A server that answers, and how to reach it.

    `url` is for SQLAlchemy with asyncpg. `owned` is true in the process that started the server
    and will stop it, false in one that found it running. `pid` is that of the
    first postmaster: one that ends by itself is started again.
    """

    url: str
    data_dir: Path
    socket_dir: Path
    owned: bool
    pid: int


def url_of(socket_dir: Path) -> str:
    """The SQLAlchemy URL of the database behind the socket in `socket_dir`."""
    return f"postgresql+asyncpg://{ROLE}@/{DATABASE}?host={quote(str(socket_dir), safe='/')}"


def socket_file(socket_dir: Path) -> Path:
    """The socket PostgreSQL makes in `socket_dir`; clients know this name by heart."""
    return socket_dir / f".s.PGSQL.{PORT}"
