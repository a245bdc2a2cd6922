"""Steps 2 and 3 as a process of their own: `meterbridge worker`."""

import asyncio
import logging

from app.bootstrap import database, services, working
from app.commands.stop_signals import on_stop
from app.config import Settings
from app.main import announce, settle_garbage_collector
from app.workshop import stripe_key

logger = logging.getLogger(__name__)


async def run_worker(settings: Settings) -> None:
    """Book and send until SIGTERM or SIGINT; then let what is in flight finish.

    A second signal ends the process at once.
    """
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    # Before anything is built: a signal during the start is a signal, too.
    on_stop(lambda: loop.call_soon_threadsafe(stopped.set))
    stripe_key(settings)  # before a database is started only to be stopped again
    async with (
        database(settings) as url,
        services(settings, url) as built,
        working(built),
    ):
        announce(settings, with_worker=True)
        settle_garbage_collector()
        logger.info("booking and sending as %s", built.replica)
        await stopped.wait()
        logger.info("stopping: finishing what is in flight")
