"""Steps 2 and 3 as a process of their own: `meterbridge worker`."""

import asyncio
import logging
import signal

from app.bootstrap import database, services, working
from app.config import Settings
from app.main import announce, settle_garbage_collector
from app.workshop import stripe_key

logger = logging.getLogger(__name__)


async def run_worker(settings: Settings) -> None:
    """Book and send until SIGTERM or SIGINT; then let what is in flight finish."""
    # Before anything is built: a signal during the start is a signal, too.
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
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
