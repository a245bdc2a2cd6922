"""Claiming: lease lanes and write down, on each due record, the POST that is about to leave.

One transaction for many lanes, and in it also when there will be something to claim next.
"""

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.clock import Clock
from app.db import DATABASE_PAUSE, transaction
from app.dispatch import lanes as store
from app.dispatch import line as the_line
from app.dispatch.claiming import RECORDS_PER_LANE, claim_records
from app.dispatch.experience import Experience
from app.dispatch.lanes import Lane
from app.dispatch.leases import Leases
from app.dispatch.probing import ONLY_A_RECORD_TELLS
from app.dispatch.records import ClaimedRecord
from app.errors import DatabaseUnavailable

logger = logging.getLogger(__name__)

LANES_PER_CLAIM = 128
# A turn of a lane behind which no other waits: less is claimed and written down for each record.
RECORDS_OF_A_LONE_LANE = 20


class Claims:
    """What a worker claims.

    `more`: there may be more to claim at once. `next_look`: in so many seconds there may be, as far
    as is known.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        clock: Clock,
        leases: Leases,
        experience: Experience,
        *,
        worker: str,
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._leases = leases
        self._experience = experience
        self._worker = worker
        self._others_wait = False  # so it was at the last claim
        self._urgent = 0.0  # what urgent lanes still have to get of their share
        self.more = False
        self.next_look: float | None = None

    def put_off(self) -> None:
        """There is no room for what may be due."""
        self.more = True
        self.next_look = None

    async def claim(self, limit: int) -> list[Lane] | None:
        """Claim up to `limit` lanes with the records that are due in them.

        None: the line is to be probed, and nothing is due that it could be probed with.
        """
        self.more, self.next_look = False, None
        if self._experience.stop_unwritten:
            return []
        now = self._clock.now()
        asked_at = time.monotonic()
        try:
            async with transaction(self._engine) as connection:
                lanes = await self._claim_lanes(connection, now, limit)
        except DatabaseUnavailable:
            logger.warning("the database is not available; nothing is claimed")
            await asyncio.sleep(DATABASE_PAUSE)
            return []
        self._leases.add({lane.token: lane.subscription for lane in lanes or ()}, asked_at=asked_at)
        if lanes is None or any(lane.probe for lane in lanes):
            self._leases.probing = True
        return lanes

    async def _claim_lanes(
        self, connection: AsyncConnection, now: datetime, limit: int
    ) -> list[Lane] | None:
        urgent = self._urgent + limit * store.URGENT_SHARE
        stops = self._experience.stops
        claim = await store.claim_lanes(
            connection, now=now, worker=self._worker, limit=limit, urgent=int(urgent)
        )
        self._experience.line_is(stopped=claim.stopped, stops_before=stops)
        if claim.stopped:
            return await self._claim_probe(connection, now)
        self._urgent = urgent % 1
        per_lane = RECORDS_PER_LANE if self._others_wait else RECORDS_OF_A_LONE_LANE
        self.more = self._others_wait = len(claim.leased) == limit
        self.next_look = claim.next_look
        return await _records_of(connection, claim.leased, now, per_lane=per_lane)

    async def _claim_probe(self, connection: AsyncConnection, now: datetime) -> list[Lane] | None:
        """One lane with one record, if this worker is the one that may probe now."""
        line = await the_line.read_line(connection)
        if not await the_line.take_probe(connection, now=now):
            if line.probe_at is not None:
                self.next_look = (line.probe_at - now).total_seconds()
            return []
        claim = await store.claim_lanes(
            connection, now=now, worker=self._worker, limit=1, probe=True
        )
        lanes = await _records_of(connection, claim.leased, now, per_lane=1)
        if lanes:
            return [replace(lane, probe=True) for lane in lanes]
        if line.reason not in ONLY_A_RECORD_TELLS:
            return None
        await the_line.return_probe(connection, now=now)
        return []


async def _records_of(
    connection: AsyncConnection, leased: Mapping[str, UUID], now: datetime, *, per_lane: int
) -> list[Lane]:
    """Leased lanes (name -> token) with their due records; those that have none are released."""
    if not leased:
        return []
    records: dict[str, list[ClaimedRecord]] = {name: [] for name in leased}
    for record in await claim_records(connection, leased, now=now, per_lane=per_lane):
        records[record.subscription].append(record)
    empty = [name for name, found in records.items() if not found]
    await store.release_lanes(connection, empty, now=now)
    return [Lane(name, leased[name], tuple(found)) for name, found in records.items() if found]
