"""The composition root: the only place that builds concrete things and knows them all.

async with database(settings) as url:              # one that is given, or one of our own
    async with services(settings, url) as built:   # everything a process needs, not running
        async with working(built): ...             # steps 2 and 3 run until the block ends
"""

import asyncio
import logging
import os
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from app.clock import Clock, SystemClock
from app.config import Settings
from app.db import (
    ProgramSchema,
    create_engine,
    database_url,
    require_head,
    transaction,
)
from app.dispatch.decide import stop_of
from app.dispatch.dispatcher import Dispatcher
from app.dispatch.line import stop_line
from app.dispatch.reasons import HoldReason
from app.dispatch.records import ClaimedRecord
from app.embedded import default_data_dir, embedded_postgres
from app.errors import DatabaseUnavailable, SettingsError
from app.inbox.writer import Inbox
from app.ledger.asking_loop import AskingLoop
from app.ledger.booker import Booker
from app.ledger.carrying import Carrier
from app.ledger.flushing import Flusher
from app.ledger.loop import BookingLoop
from app.ledger.querying import Querier
from app.ledger.rebooking import Rebooker
from app.ledger.status import StatusRepository
from app.ledger.successors import Successors
from app.listener import Listener
from app.mapping import repository as mapping_repository
from app.mapping import snapshots as snapshot_repository
from app.mapping.cached import CachedMappings
from app.mapping.models import LatePolicy
from app.mapping.repository import MappingRepository
from app.mapping.resolve import Rules
from app.mapping.snapshots import Snapshots, read_from_stripe
from app.migrating import migrate
from app.openmeter.api import OpenMeterClient
from app.openmeter.signature import WebhookVerifier
from app.stripe_client import StripeClient, StripeError, Timeouts
from app.supervision import Supervisor

logger = logging.getLogger(__name__)

LOOKUP_CONNECTIONS = 2


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
    supervisor: Supervisor


@dataclass(frozen=True, slots=True)
class Services:
    """Everything one process is made of. `workshop` is None where it only receives."""

    settings: Settings
    clock: Clock
    engine: AsyncEngine
    schema: ProgramSchema
    replica: str
    verifier: WebhookVerifier | None
    inbox: Inbox
    mappings: MappingRepository
    cached_mappings: CachedMappings
    status: StatusRepository
    workshop: Workshop | None
    listener: Listener
    counters: Counter[str]


@asynccontextmanager
async def database(settings: Settings) -> AsyncIterator[URL]:
    """The database that the settings name, or an embedded one, migrated, for as long as needed."""
    if settings.database_url is not None:
        yield database_url(settings.database_url.get_secret_value())
        return
    folder = settings.meterbridge_data_dir or default_data_dir()
    async with embedded_postgres(folder) as server:
        url = database_url(server.url)
        await migrate(url)
        yield url


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


@asynccontextmanager
async def services(
    settings: Settings, url: URL, *, clock: Clock | None = None, with_worker: bool = True
) -> AsyncIterator[Services]:
    """Build everything for one process. Raises SettingsError and SchemaBehind."""
    async with AsyncExitStack() as stack:
        clock = clock or SystemClock()
        engine = create_engine(url, pool_size=settings.database_pool_size)
        stack.push_async_callback(engine.dispose)
        # Apart from the pool: see `Snapshots`.
        lookups = create_engine(url, pool_size=LOOKUP_CONNECTIONS)
        stack.push_async_callback(lookups.dispose)
        client = open_client(settings) if with_worker else None
        if client is not None:
            stack.push_async_callback(client.aclose)
        schema = ProgramSchema.of_program()
        await require_head(engine, schema)
        replica = f"{socket.gethostname()}:{os.getpid()}"
        repository = MappingRepository(engine)
        cached = CachedMappings(
            MappingRepository(lookups),
            ttl=settings.mapping_cache_ttl,
            size=settings.mapping_cache_size,
        )
        workshop = None
        if client is not None:
            openmeter = open_openmeter(settings)
            if openmeter is not None:
                stack.push_async_callback(openmeter.aclose)
            workshop = _workshop(
                settings, engine, lookups, clock, cached, client, openmeter, replica
            )
        secrets = [secret.get_secret_value() for secret in settings.openmeter_webhook_secrets]
        yield Services(
            settings=settings,
            clock=clock,
            engine=engine,
            schema=schema,
            replica=replica,
            verifier=WebhookVerifier(secrets) if secrets else None,
            inbox=Inbox(engine, on_committed=workshop.booking.wake if workshop else _nothing),
            mappings=repository,
            cached_mappings=cached,
            status=StatusRepository(engine),
            workshop=workshop,
            listener=_listener(url, cached, workshop),
            counters=Counter(),
        )


def _nothing() -> None:
    """Nobody here books: the worker processes look by themselves."""


def _workshop(
    settings: Settings,
    engine: AsyncEngine,
    lookups: AsyncEngine,
    clock: Clock,
    cached: CachedMappings,
    client: StripeClient,
    openmeter: OpenMeterClient | None,
    replica: str,
) -> Workshop:
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
    return Workshop(client, snapshots, booking, asking, dispatcher, Supervisor())


def _listener(url: URL, cached: CachedMappings, workshop: Workshop | None) -> Listener:
    """What other processes change: mappings and snapshots."""

    def mappings_changed(payload: str) -> None:
        cached.notified(payload)
        if workshop is not None:
            workshop.booking.wake()

    def snapshot_changed(subscription: str) -> None:
        if workshop is not None:
            if subscription == snapshot_repository.ALL:
                workshop.snapshots.forget_all()
            else:
                workshop.snapshots.forget(subscription)
            workshop.booking.wake()

    def missed() -> None:
        cached.forget_all()
        if workshop is not None:
            workshop.snapshots.forget_all()
            workshop.booking.wake()

    return Listener(
        url,
        {
            mapping_repository.CHANNEL: mappings_changed,
            snapshot_repository.CHANNEL: snapshot_changed,
        },
        on_gap=missed,
    )


@asynccontextmanager
async def receiving(built: Services) -> AsyncIterator[None]:
    """Take deliveries until the block ends; then finish those that wait for their commit."""
    await built.inbox.start()
    try:
        yield
    finally:
        await built.inbox.stop()


@asynccontextmanager
async def working(built: Services) -> AsyncIterator[None]:
    """Book and send until the block ends; then let what is in flight finish.

    A loop that ends by an error nobody foresaw is started again; see `Supervisor`.
    """
    await built.listener.start()
    workshop = built.workshop
    if workshop is None:
        try:
            yield
        finally:
            await built.listener.stop()
        return
    send = partial(workshop.dispatcher.run, grace=built.settings.shutdown_grace)
    loops: dict[str, Callable[[], Awaitable[None]]] = {
        "booking": workshop.booking.run,
        "dispatcher": send,
    }
    if workshop.asking is not None:
        loops["asking"] = workshop.asking.run
    tasks = [
        asyncio.create_task(workshop.supervisor.run(name, loop), name=name)
        for name, loop in loops.items()
    ]
    try:
        yield
    finally:
        workshop.supervisor.stop()
        workshop.booking.stop()
        if workshop.asking is not None:
            workshop.asking.stop()
        workshop.dispatcher.stop()
        await asyncio.gather(*tasks, return_exceptions=True)
        await built.listener.stop()
