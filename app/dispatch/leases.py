"""The leases that this process holds: until when each is certainly ours, and renewing them."""

import asyncio
import logging
import time
from collections.abc import Mapping
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from app.clock import Clock
from app.db import transaction
from app.dispatch import lanes as store
from app.dispatch import line as the_line
from app.errors import DatabaseUnavailable

logger = logging.getLogger(__name__)

RENEW_EVERY = store.LEASE / 4
LONGEST_RENEWAL = store.LEASE / 2
# After one that hung there is a second left: a database that is slow for longer costs the leases.
RENEW_AGAIN = 0.1


class Leases:
    """Tokens of leased lanes, and the probe of the line, for as long as this process lives."""

    def __init__(self, engine: AsyncEngine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock
        self._lanes: dict[UUID, str] = {}  # token -> subscription
        self._until: dict[UUID, float] = {}
        self._renewals: set[asyncio.Task[None]] = set()  # also those that are being cancelled
        self.probing = False

    def __len__(self) -> int:
        """How many lanes are held."""
        return len(self._lanes)

    def add(self, lanes: Mapping[UUID, str], *, asked_at: float) -> None:
        """Lanes were leased, token -> subscription; `asked_at` is monotonic time before that."""
        self._lanes.update(lanes)
        self._until.update(dict.fromkeys(lanes, asked_at + store.LEASE))

    def drop(self, token: UUID) -> None:
        """A lane was released, or is lost."""
        self._lanes.pop(token, None)
        self._until.pop(token, None)

    def holds(self, token: UUID) -> bool:
        """Whether the lease is certainly still ours."""
        return time.monotonic() < self._until.get(token, 0.0)

    async def keep(self) -> None:
        """Renew until cancelled.

        With a lost lease nothing more is sent. A call that is in flight then may meet that of the
        lane's new holder at Stripe; both carry the same key, and breaking ours off would not call
        it back, but lose its answer for the audit trail.
        """
        pause = RENEW_EVERY
        while True:
            await asyncio.sleep(pause)
            if await self._renewed():
                pause = RENEW_EVERY
                continue
            if pause != RENEW_AGAIN:
                logger.warning("leases could not be renewed: tried again until they can")
            pause = RENEW_AGAIN

    async def _renewed(self) -> bool:
        """Whether it was done in time. One that hangs is cancelled, and not waited for: to end its
        session may take as long again, and by then the leases are lost."""
        renewal = asyncio.create_task(self._renew(), name="renewal")
        self._renewals.add(renewal)
        renewal.add_done_callback(self._ended)
        try:
            done, _ = await asyncio.wait({renewal}, timeout=LONGEST_RENEWAL)
        finally:
            renewal.cancel()
        if not done:
            return False
        try:
            renewal.result()
        except DatabaseUnavailable:
            return False
        return True

    def _ended(self, renewal: asyncio.Task[None]) -> None:
        self._renewals.discard(renewal)
        if not renewal.cancelled():
            renewal.exception()  # nobody waits for one that hung

    async def _renew(self) -> None:
        asked_at = time.monotonic()
        # Most are over before they would have to be renewed.
        young = asked_at + store.LEASE - RENEW_EVERY / 2
        held = {token: name for token, name in self._lanes.items() if self._until[token] < young}
        if not held and not self.probing:
            return
        async with transaction(self._engine) as connection:
            if self.probing:
                await the_line.keep_probe(connection, now=self._clock.now())
            renewal = await store.renew(connection, held)
        for token in renewal.renewed & self._lanes.keys():
            self._until[token] = asked_at + store.LEASE
        for token in renewal.lost:
            self.drop(token)
