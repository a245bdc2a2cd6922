"""A PostgreSQL of our own, for a machine where `DATABASE_URL` names none.

    async with embedded_postgres(default_data_dir()) as server:
        ...  # server.url goes to SQLAlchemy

One process per data folder starts the server and owns it; every other process on the same folder
finds it and attaches. Only the owner stops it. The details are in `docs/embedded-postgres.md`.
"""

from app.embedded.errors import NoCluster, ServerNotStarted
from app.embedded.folder import default_data_dir
from app.embedded.launcher import RunningServer, running, start
from app.embedded.lifespan import embedded_postgres
from app.embedded.server import EmbeddedServer

__all__ = [
    "EmbeddedServer",
    "NoCluster",
    "RunningServer",
    "ServerNotStarted",
    "default_data_dir",
    "embedded_postgres",
    "running",
    "start",
]
