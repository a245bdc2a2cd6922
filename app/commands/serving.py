"""`meterbridge serve`: uvicorn around an application that was built before it."""

import logging
import threading
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager

import uvicorn

from app.bootstrap import database, receiving, services, working
from app.commands.connections import ConnectionLimits, Connections
from app.commands.listening import allow_files, bind
from app.commands.stop_signals import on_stop
from app.config import Settings
from app.main import announce, create_app, settle_garbage_collector
from app.migrating import migrate
from app.workshop import stripe_key

logger = logging.getLogger(__name__)


class _Server(uvicorn.Server):
    """uvicorn's server without its signal handlers: ours stand before it begins and after it."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


async def serve(
    settings: Settings, *, host: str, port: int, with_worker: bool, migrate_first: bool
) -> None:
    """Serve until SIGTERM or SIGINT; a second one ends the process at once.

    What is wrong with settings or schema is raised before.
    """
    # A signal that comes before uvicorn serves, while the database starts or migrates, keeps it
    # from serving at all; one that comes after our last look ends its serving as it begins.
    asked_to_stop = threading.Event()
    server: uvicorn.Server | None = None

    def ask_to_stop() -> None:
        asked_to_stop.set()
        if server is not None:
            server.should_exit = True

    on_stop(ask_to_stop)
    # Both before a database is started only to be stopped again.
    if with_worker:
        stripe_key(settings)
    async with AsyncExitStack() as stack:
        sockets = [stack.enter_context(sock) for sock in bind(host, port)]
        url = await stack.enter_async_context(database(settings))
        if migrate_first:
            await migrate(url)
        async with (
            services(settings, url, with_worker=with_worker) as built,
            receiving(built),
            working(built),
        ):
            limits = ConnectionLimits()
            allow_files(limits.connections)
            config = uvicorn.Config(
                create_app(settings, built),
                http=Connections(limits).protocol(),
                ws="none",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,  # who calls is nowhere asked
                timeout_graceful_shutdown=int(settings.shutdown_grace),
                # Longer than the idle time of usual load balancers (60 s), so that they close
                # first and no webhook meets a connection that is just going away.
                timeout_keep_alive=75,
            )
            server = _Server(config)
            announce(settings, with_worker=with_worker)
            settle_garbage_collector()
            if not asked_to_stop.is_set():
                logger.info("listening on http://%s:%d", host, port)
                await server.serve(sockets=sockets)
            logger.info("stopping: finishing what is in flight")
