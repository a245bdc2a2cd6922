"""Probing a stopped line while nothing is due: by a small read."""

import logging

from sqlalchemy.ext.asyncio import AsyncEngine

from app.clock import Clock
from app.db import transaction
from app.dispatch import line as the_line
from app.dispatch.decide import is_outage, stop_of
from app.dispatch.reasons import StopReason
from app.errors import DatabaseUnavailable
from app.stripe_client import StripeClient, StripeError

logger = logging.getLogger(__name__)

# What no read can tell is mended: a key may read, and not write usage records.
ONLY_A_RECORD_TELLS = frozenset({StopReason.PERMISSION_MISSING.value})


async def probe_by_reading(engine: AsyncEngine, clock: Clock, client: StripeClient) -> None:
    """Ask Stripe for something small, and open the line if it answers. Its probe was taken."""
    found: StripeError | None = None
    try:
        await client.probe()
    except StripeError as error:
        found = error
    stop = None if found is None else stop_of(found)
    if stop is None and found is not None and is_outage(found):
        stop = StopReason.STRIPE_UNAVAILABLE
    try:
        async with transaction(engine) as connection:
            if stop is not None:
                await the_line.stop_line(connection, stop, str(found), now=clock.now(), probed=True)
            elif await the_line.open_line(connection):
                logger.info("the line to Stripe is open again")
    except DatabaseUnavailable:
        logger.warning("the database is not available; the line is probed again")
