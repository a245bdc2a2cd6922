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
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from secrets import token_hex

from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from app.clock import Clock, SystemClock
from app.config import Settings
from app.db import (
    ProgramSchema,
    create_engine,
    database_url,
    require_head,
)
from app.embedded import default_data_dir, embedded_postgres
from app.health import SharedChecks
from app.inbox import announcing
from app.inbox.arriving import ArrivingBodies
from app.inbox.writer import Inbox
from app.ledger.status import StatusRepository
from app.listener import Listener
from app.mapping import repository as mapping_repository
from app.mapping import snapshots as snapshot_repository
from app.mapping.cached import CachedMappings
from app.mapping.repository import MappingRepository
from app.migrating import migrate
from app.observability.refusals import RefusalLog
from app.openmeter.signature import WebhookVerifier
from app.workshop import Workshop, build_workshop, open_client, open_openmeter

logger = logging.getLogger(__name__)

LOOKUP_CONNECTIONS = 2


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
    arriving: ArrivingBodies = field(default_factory=ArrivingBodies)
    refusals: RefusalLog = field(default_factory=RefusalLog)
    checks: SharedChecks = field(default_factory=SharedChecks)


def embedded_folder(settings: Settings) -> Path:
    """Where the embedded PostgreSQL has its data, for settings that name no database."""
    return settings.meterbridge_data_dir or default_data_dir()


@asynccontextmanager
async def database(settings: Settings, *, existing: bool = False) -> AsyncIterator[URL]:
    """The database that the settings name, or an embedded one, migrated, for as long as needed.

    With `existing` none is made: a command that looks into a new, empty one would say that
    everything is done. Raises NoCluster then.
    """
    if settings.database_url is not None:
        yield database_url(settings.database_url.get_secret_value())
        return
    folder = embedded_folder(settings)
    if not existing and settings.meterbridge_data_dir is None:
        logger.warning(
            "DATABASE_URL is not set: the embedded PostgreSQL in %s is used; for production set it",
            folder,
        )
    async with embedded_postgres(folder, existing=existing) as server:
        url = database_url(server.url)
        await migrate(url)
        yield url


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
        replica = _own_name()
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
            workshop = build_workshop(
                settings, engine, lookups, clock, cached, client, openmeter, replica
            )
        # A process that books wakes itself. One that only receives tells those that do.
        announcer = announcing.Announcer(engine)
        stack.push_async_callback(announcer.stop)
        secrets = [secret.get_secret_value() for secret in settings.openmeter_webhook_secrets]
        yield Services(
            settings=settings,
            clock=clock,
            engine=engine,
            schema=schema,
            replica=replica,
            verifier=WebhookVerifier(secrets) if secrets else None,
            inbox=Inbox(
                engine, on_committed=workshop.booking.wake if workshop else announcer.announce
            ),
            mappings=repository,
            cached_mappings=cached,
            status=StatusRepository(engine),
            workshop=workshop,
            listener=_listener(url, cached, workshop),
            counters=Counter(),
        )


def _own_name() -> str:
    """What this process is called in the database; no other one is, nor was.

    Host and process tell people where. The containers of one pod share a host's name, and in each
    the program is process 1: one that stops would end the leases of the other.
    """
    return f"{socket.gethostname()}:{os.getpid()}:{token_hex(4)}"


def _listener(url: URL, cached: CachedMappings, workshop: Workshop | None) -> Listener:
    """What other processes change: deliveries, mappings and snapshots."""

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

    def received(_: str) -> None:
        if workshop is not None:
            workshop.booking.wake()

    def missed() -> None:
        cached.forget_all()
        if workshop is not None:
            workshop.snapshots.forget_all()
            workshop.booking.wake()

    return Listener(
        url,
        {
            announcing.CHANNEL: received,
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
        "pruning": workshop.pruning.run,
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
        workshop.pruning.stop()
        if workshop.asking is not None:
            workshop.asking.stop()
        workshop.dispatcher.stop()
        await asyncio.gather(*tasks, return_exceptions=True)
        await built.listener.stop()
