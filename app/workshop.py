"""The workshop: steps 2 and 3, book and send, with the clients that they call. See `bootstrap`."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from sqlalchemy.ext.asyncio import AsyncEngine

from app.clock import Clock
from app.config import Settings
from app.db import (
    transaction,
)
from app.dispatch.decide import stop_of
from app.dispatch.dispatcher import Dispatcher
from app.dispatch.line import stop_line
from app.dispatch.reasons import HoldReason
from app.dispatch.records import ClaimedRecord
from app.errors import DatabaseUnavailable, SettingsError
from app.ledger.asking_loop import AskingLoop
from app.ledger.booker import Booker
from app.ledger.carrying import Carrier
from app.ledger.flushing import Flusher
from app.ledger.loop import BookingLoop
from app.ledger.querying import Querier
from app.ledger.rebooking import Rebooker
from app.ledger.successors import Successors
from app.mapping.cached import CachedMappings
from app.mapping.models import LatePolicy
from app.mapping.resolution import Rules
from app.mapping.snapshots import Snapshots, read_from_stripe
from app.openmeter.api import OpenMeterClient
from app.retention.pruner import Pruner, PruningLoop
from app.retention.terms import Terms
from app.stripe_client import StripeClient, StripeError, Timeouts
from app.supervision import Supervisor

logger = logging.getLogger(__name__)


class RenewedDispatcher:
    """Dispatchers one after the other: each run has a new one, as a new process would.

    What one that failed still has in memory (leases, answers not written down) would not fit what
    the database says by then; the claims there tell its successor everything.
    """

    def __init__(self, build: Callable[[], Dispatcher]) -> None:
        self._build = build
        self._current = build()
        self._used = False

    def wake(self) -> None:
        """Something may be due: look now."""
        self._current.wake()

    def stop(self) -> None:
        """Claim nothing more; `run` returns when what is in flight has been written down."""
        self._current.stop()

    async def run(self, *, grace: float) -> None:
        """Send until stopped; see `Dispatcher.run`."""
        if self._used:
            self._current = self._build()
        self._used = True
        await self._current.run(grace=grace)


@dataclass(frozen=True, slots=True)
class Workshop:
    """What books and sends: steps 2 and 3, and who keeps them at work."""

    client: StripeClient
    snapshots: Snapshots
    booking: BookingLoop
    asking: AskingLoop | None
    dispatcher: RenewedDispatcher
    pruning: PruningLoop
    supervisor: Supervisor


def stripe_key(settings: Settings) -> str:
    """The key that booking and sending need. Raises SettingsError where there is none."""
    if settings.stripe_api_key is None:
        raise SettingsError("STRIPE_API_KEY: is missing; set it, or receive only, with --no-worker")
    return settings.stripe_api_key.get_secret_value()


def open_client(settings: Settings) -> StripeClient:
    """A Stripe client as the settings say. Raises SettingsError where there is no key."""
    total = settings.stripe_timeout
    return StripeClient(
        api_key=stripe_key(settings),
        base_url=settings.stripe_api_base,
        account=settings.stripe_account,
        timeouts=Timeouts(connect=min(5.0, total), read=total, pool=min(10.0, total), total=total),
        max_connections=settings.stripe_in_flight + 8,  # snapshots are read beside the records
    )


def open_openmeter(settings: Settings) -> OpenMeterClient | None:
    """A client of OpenMeter's API as the settings say; None where they name no address."""
    if settings.openmeter_api_url is None:
        return None
    key = settings.openmeter_api_key
    return OpenMeterClient(
        base_url=settings.openmeter_api_url,
        api_key=None if key is None else key.get_secret_value(),
        timeout=settings.openmeter_timeout,
    )


def build_workshop(
    settings: Settings,
    engine: AsyncEngine,
    lookups: AsyncEngine,
    clock: Clock,
    cached: CachedMappings,
    client: StripeClient,
    openmeter: OpenMeterClient | None,
    replica: str,
) -> Workshop:
    """Everything that steps 2 and 3 need, not running. `lookups` has connections of its own."""
    flush_before = timedelta(seconds=settings.period_end_flush)
    snapshots = Snapshots(
        engine,
        partial(read_from_stripe, client, clock=clock),
        lookups=lookups,
        size=settings.mapping_cache_size,
        flush_before=flush_before,
    )
    linger = timedelta(seconds=settings.dispatch_linger)
    booker = Booker(
        engine,
        clock,
        cached,
        snapshots,
        linger=linger,
        rules=Rules(
            timedelta(seconds=settings.snapshot_max_age),
            late_policy=LatePolicy(settings.late_policy),
            queries=openmeter is not None,
        ),
        approve_reductions_above=settings.approve_reductions_above,
    )
    carrier = Carrier(
        engine,
        clock,
        snapshots,
        Successors(lookups, cached),
        linger=linger,
        late_policy=LatePolicy(settings.late_policy),
    )
    rebooker = Rebooker(engine, clock, snapshots)

    async def resolve(record: ClaimedRecord, reason: HoldReason) -> None:
        try:
            await rebooker.resolve_again(
                record.id, record.subscription, record.subscription_item, reason=reason.value
            )
        except StripeError as error:
            logger.warning("%s could not be read from Stripe: %s", record.subscription, error)
            await refused(error)
        booking.wake()

    async def refused(error: StripeError) -> None:
        """A read that says that the key or the version is refused stops the line, too."""
        reason = stop_of(error)
        if reason is None:
            return
        try:
            async with transaction(engine) as connection:
                await stop_line(connection, reason, str(error), now=clock.now())
        except DatabaseUnavailable:
            logger.warning("the line could not be stopped; the first POST will find the same")

    dispatcher = RenewedDispatcher(
        partial(
            Dispatcher,
            engine,
            clock,
            client,
            rate=settings.stripe_rate_limit,
            ceiling=settings.highest_rate,
            account=settings.stripe_side,
            in_flight=settings.stripe_in_flight,
            resolver=resolve,
            worker=replica,
        )
    )
    booking = BookingLoop(
        engine,
        clock,
        booker,
        carrier,
        snapshots,
        on_booked=dispatcher.wake,
        on_read_failed=refused,
    )
    asking = None
    if openmeter is not None:
        flusher = Flusher(engine, clock, openmeter, cached, snapshots) if flush_before else None
        asking = AskingLoop(Querier(engine, clock, openmeter), flusher, on_answered=booking.wake)
    terms = Terms.of_days(settings.retention_days, settings.raw_retention_days)
    pruning = PruningLoop(Pruner(engine, clock, terms))
    return Workshop(client, snapshots, booking, asking, dispatcher, pruning, Supervisor())
