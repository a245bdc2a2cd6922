"""The booking loop: books while there is something to book, and reads what booking lacks.

Snapshots are read beside the loop, so that a slow Stripe delays only the windows that need one.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncEngine

from app.clock import Clock
from app.db import DATABASE_PAUSE, transaction
from app.errors import DatabaseUnavailable
from app.ledger import windows as facts
from app.ledger.booker import Booker
from app.ledger.carrying import Carried, Carrier
from app.ledger.unforeseen import UNFORESEEN_RETRY
from app.mapping.snapshots import Snapshots
from app.stripe_client import StripeError, TokenBucket
from app.waiting import set_within

logger = logging.getLogger(__name__)

IDLE_POLL = 1.0
# A round that took all there was is woken by what this process receives; for what others do it
# looks again so soon. To look at once found nothing, after each webhook that came alone.
NEXT_LOOK = 0.05
# How often parked windows are looked through for those whose time has come.
HOUSEKEEPING = 5.0
# A read that failed is tried again after this; a stopped Stripe is not asked once per window.
READ_RETRY = timedelta(seconds=10)
READS_IN_FLIGHT = 8
READS_PER_SECOND = 15  # Stripe allows 25 per endpoint


class BookingLoop:
    """Runs a booker until it is stopped."""

    def __init__(
        self,
        engine: AsyncEngine,
        clock: Clock,
        booker: Booker,
        carrier: Carrier,
        snapshots: Snapshots,
        *,
        on_booked: Callable[[], None],
        on_read_failed: Callable[[StripeError], Awaitable[None]],
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._booker = booker
        self._carrier = carrier
        self._snapshots = snapshots
        self._on_booked = on_booked
        self._on_read_failed = on_read_failed
        self._wake = asyncio.Event()
        self._stopping = False
        self._reading: dict[str, asyncio.Task[None]] = {}
        self._slots = asyncio.Semaphore(READS_IN_FLIGHT)
        self._pace = TokenBucket(READS_PER_SECOND, burst=READS_IN_FLIGHT)

    def wake(self) -> None:
        """Something is to be booked: look now."""
        self._wake.set()

    def stop(self) -> None:
        """Finish the round and return from `run`."""
        self._stopping = True
        self._wake.set()

    async def run(self) -> None:
        """Book until stopped."""
        housekeeper = asyncio.create_task(self._keep_house(), name="booking-housekeeper")
        try:
            while not self._stopping:
                self._wake.clear()
                try:
                    done = await self._booker.book()
                    carried = await self._carrier.carry() if done.waiting.late else Carried()
                except DatabaseUnavailable:
                    logger.warning("the database is not available; nothing is booked")
                    await set_within(self._wake, DATABASE_PAUSE)
                    continue
                if done.parked:
                    logger.info(
                        "parked: %s", ", ".join(f"{n} {why}" for why, n in done.parked.items())
                    )
                for subscription in done.subscriptions | carried.subscriptions:
                    self._read(subscription)
                if carried.records or not done.idle:
                    self._on_booked()
                if not (carried.records or done.more):
                    await set_within(self._wake, IDLE_POLL if done.idle else NEXT_LOOK)
        finally:
            tasks = [housekeeper, *self._reading.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _read(self, subscription: str) -> None:
        """Read a subscription beside the loop, unless that is under way."""
        if subscription not in self._reading:
            task = asyncio.create_task(self._read_now(subscription), name=f"read {subscription}")
            self._reading[subscription] = task
            task.add_done_callback(lambda _: self._reading.pop(subscription, None))

    async def _read_now(self, subscription: str) -> None:
        async with self._slots:
            await self._pace.acquire()
            retry_at = None
            try:
                await self._snapshots.refresh(subscription)
            except StripeError as error:
                logger.warning("%s could not be read from Stripe: %s", subscription, error)
                retry_at = self._clock.now() + READ_RETRY
                await self._on_read_failed(error)
            except DatabaseUnavailable:
                return  # the windows are tried again when their patience ends
            except Exception:
                # What nobody foresaw must not be asked for every half minute, for ever.
                logger.exception("%s could not be read", subscription)
                retry_at = self._clock.now() + UNFORESEEN_RETRY
            try:
                through = False
                while not through:
                    async with transaction(self._engine) as connection:
                        through = await facts.snapshot_arrived(
                            connection, subscription, retry_at=retry_at
                        )
                    self._wake.set()
            except DatabaseUnavailable:
                return

    async def _keep_house(self) -> None:
        while True:
            try:
                async with transaction(self._engine) as connection:
                    woken = await facts.wake_parked(connection, now=self._clock.now(), limit=1_000)
                if woken:
                    self._wake.set()
            except DatabaseUnavailable:
                logger.debug("the database is not available; parked windows wait")
            except Exception:
                # Without this task windows that wait for a time would wait for ever.
                logger.exception("parked windows could not be looked through")
            await asyncio.sleep(HOUSEKEEPING)
