"""Dispatchers at work in a test, and waiting for what they do."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncEngine

from app.clock import ManualClock
from app.dispatch.dispatcher import Dispatcher
from app.dispatch.reasons import HoldReason
from app.dispatch.records import ClaimedRecord
from app.stripe_client import StripeClient
from tests.dispatch.ledger import NOW

DEADLINE = 30.0


async def no_resolver(_record: ClaimedRecord, _reason: HoldReason) -> None:
    """Leaves the record as it is."""


def build(
    engine: AsyncEngine,
    client: StripeClient,
    *,
    clock: ManualClock | None = None,
    worker: str = "w1",
    resolver: Callable[[ClaimedRecord, HoldReason], Awaitable[None]] = no_resolver,
    in_flight: int = 8,
    rate: float = 1000,
) -> Dispatcher:
    """A dispatcher of a high pace and with an even jitter; its clock stands still."""
    return Dispatcher(
        engine,
        clock or ManualClock(NOW),
        client,
        rate=rate,
        in_flight=in_flight,
        resolver=resolver,
        worker=worker,
        jitter=lambda: 0.5,
    )


@asynccontextmanager
async def sending(
    engine: AsyncEngine,
    client: StripeClient,
    *,
    clock: ManualClock | None = None,
    worker: str = "w1",
    resolver: Callable[[ClaimedRecord, HoldReason], Awaitable[None]] = no_resolver,
    in_flight: int = 8,
    rate: float = 1000,
    grace: float = 10.0,
) -> AsyncIterator[Dispatcher]:
    """A dispatcher that runs until the block ends; an error of its own is an error of the test."""
    dispatcher = build(
        engine,
        client,
        clock=clock,
        worker=worker,
        resolver=resolver,
        in_flight=in_flight,
        rate=rate,
    )
    task = asyncio.create_task(dispatcher.run(grace=grace))
    try:
        yield dispatcher
    finally:
        dispatcher.stop()
        await asyncio.wait_for(task, DEADLINE)


async def until(
    condition: Callable[[], Awaitable[bool]],
    what: str,
    *,
    clock: ManualClock | None = None,
    step: float = 0.0,
    worker: Dispatcher | None = None,
) -> None:
    """Poll until the condition holds; between polls the clock, if given, moves by `step`."""
    deadline = time.monotonic() + DEADLINE
    while not await condition():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        if clock is not None:
            clock.advance(timedelta(seconds=step))
        if worker is not None:
            worker.wake()
        await asyncio.sleep(0.02)
