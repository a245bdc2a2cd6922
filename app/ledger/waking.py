"""Waking: windows that wait for something else than a delivery are pending again, in batches."""

import logging
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncEngine

from app.db import transaction
from app.ledger.moving import wake_moving
from app.ledger.querying import ask_nobody
from app.ledger.taking import Waiting
from app.ledger.unforeseen import UNFORESEEN
from app.mapping.releases import release_some

logger = logging.getLogger(__name__)


async def wake(engine: AsyncEngine, waiting: Waiting, *, limit: int, now: datetime) -> None:
    """Have some of what waits booked. Raises DatabaseUnavailable.

    What cannot be woken, for a reason nobody foresaw, must not keep what is here.
    """
    try:
        async with transaction(engine) as connection:
            if waiting.releases:
                await release_some(connection, limit=limit)
            if waiting.moving:
                await wake_moving(connection, limit=limit)
            if waiting.unasked:  # what was divided while there was somebody to ask counts
                await ask_nobody(connection, now)
    except UNFORESEEN:
        logger.exception("what waits could not be woken; what is here is booked")
