"""Renewing leases where the database stalls."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.clock import ManualClock
from app.dispatch import leases
from app.dispatch.lanes import Renewal
from app.dispatch.leases import Leases
from tests.dispatch.ledger import NOW

TOKEN = UUID(int=1)


async def test_a_renewal_that_hangs_is_tried_again_at_once(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next regular one would come when the lease has just ended; and to end what hangs may
    hang, too."""
    monkeypatch.setattr(leases, "RENEW_EVERY", 0.01)
    monkeypatch.setattr(leases, "LONGEST_RENEWAL", 0.2)
    tries = 0
    again = asyncio.Event()

    async def renew(_: AsyncConnection, held: Mapping[UUID, str]) -> Renewal:
        nonlocal tries
        tries += 1
        if tries == 1:
            monkeypatch.setattr(leases, "RENEW_EVERY", timedelta(hours=1).total_seconds())
            try:
                await asyncio.Event().wait()
            finally:
                await again.wait()
        again.set()
        return Renewal(frozenset(held), frozenset())

    monkeypatch.setattr("app.dispatch.lanes.renew", renew)
    held = Leases(engine, ManualClock(NOW))
    held.add({TOKEN: "sub_1"}, asked_at=float("-inf"))
    keeping = asyncio.create_task(held.keep())
    await asyncio.wait_for(again.wait(), 20)
    async with asyncio.timeout(20):
        while not held.holds(TOKEN):
            await asyncio.sleep(0.01)
    keeping.cancel()
    with suppress(asyncio.CancelledError):
        await keeping
