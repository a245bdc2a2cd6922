"""`meterbridge serve`: uvicorn around an application that was built before it."""

import logging
import signal
import threading
from contextlib import AsyncExitStack

import uvicorn

from app.bootstrap import database, receiving, services, working
from app.commands.listening import bind
from app.config import Settings
from app.main import announce, create_app, settle_garbage_collector
from app.migrating import migrate
from app.workshop import stripe_key

logger = logging.getLogger(__name__)


async def serve(
    settings: Settings, *, host: str, port: int, with_worker: bool, migrate_first: bool
) -> None:
    """Serve until SIGTERM or SIGINT. What is wrong with settings or schema is raised before."""
    # uvicorn handles both signals while it serves, and raises them again when it has ended: by
    # then it is our turn to let deliveries and calls in flight finish, not to die. One that comes
    # before, while the database starts or migrates, keeps it from serving at all; one that comes
    # after our last look, and before uvicorn's handlers stand, ends its serving as it begins.
    asked_to_stop = threading.Event()
    server: uvicorn.Server | None = None

    def ask_to_stop(*_: object) -> None:
        asked_to_stop.set()
        if server is not None:
            server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, ask_to_stop)
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
            config = uvicorn.Config(
                create_app(settings, built),
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=int(settings.shutdown_grace),
                # Longer than the idle time of usual load balancers (60 s), so that they close
                # first and no webhook meets a connection that is just going away.
                timeout_keep_alive=75,
                h11_max_incomplete_event_size=64 * 1024,
            )
            server = uvicorn.Server(config)
            announce(settings, with_worker=with_worker)
            settle_garbage_collector()
            if not asked_to_stop.is_set():
                logger.info("listening on http://%s:%d", host, port)
                await server.serve(sockets=sockets)
            logger.info("stopping: finishing what is in flight")
