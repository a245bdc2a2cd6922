"""Claiming: lease lanes and write down, on each due record, the POST that is about to leave.

One transaction for many lanes, and in it also when there will be something to claim next.
"""

import asyncio
import logging
import time
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.clock import Clock
from app.db import DATABASE_PAUSE, transaction
from app.dispatch import lanes as store
from app.dispatch import line as the_line
from app.dispatch.claiming import RECORDS_PER_LANE, claim_records
from app.dispatch.experience import Experience
from app.dispatch.lanes import Lane
from app.dispatch.leases import Leases
from app.dispatch.line import Line
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
        now = self._clock.now()
        asked_at = time.monotonic()
        self.more, self.next_look = False, None
        try:
            async with transaction(self._engine) as connection:
                line = await the_line.read_line(connection)
                self._experience.line_is(stopped=line.stopped)
                if line.stopped:
                    lanes = await self._claim_probe(connection, line, now)
                elif self._experience.line_stopped:
                    return []  # its stop is about to be written down
                else:
                    lanes = await self._claim_lanes(connection, now, limit)
        except DatabaseUnavailable:
            logger.warning("the database is not available; nothing is claimed")
            await asyncio.sleep(DATABASE_PAUSE)
            return []
        self._leases.add({lane.token: lane.subscription for lane in lanes or ()}, asked_at=asked_at)
        if lanes is None or any(lane.probe for lane in lanes):
            self._leases.probing = True
        return lanes

    async def _claim_probe(
        self, connection: AsyncConnection, line: Line, now: datetime
    ) -> list[Lane] | None:
        """One lane with one record, if this worker is the one that may probe now."""
        if not await the_line.take_probe(connection, now=now):
            if line.probe_at is not None:
                self.next_look = (line.probe_at - now).total_seconds()
            return []
        lanes, _ = await self._lease(connection, now, limit=1, per_lane=1, probe=True)
        if lanes or line.reason not in ONLY_A_RECORD_TELLS:
            return lanes or None
        await the_line.return_probe(connection, now=now)
        return []

    async def _claim_lanes(
        self, connection: AsyncConnection, now: datetime, limit: int
    ) -> list[Lane]:
        self._urgent += limit * store.URGENT_SHARE
        urgent = int(self._urgent)
        self._urgent -= urgent
        per_lane = RECORDS_PER_LANE if self._others_wait else RECORDS_OF_A_LONE_LANE
        lanes, leased = await self._lease(
            connection, now, limit=limit, per_lane=per_lane, urgent=urgent
        )
        self.more = self._others_wait = leased == limit
        if not self.more:
            self.next_look = await store.seconds_to_next(connection, now)
        return lanes

    async def _lease(
        self,
        connection: AsyncConnection,
        now: datetime,
        *,
        limit: int,
        per_lane: int,
        urgent: int = 0,
        probe: bool = False,
    ) -> tuple[list[Lane], int]:
        """Lanes with due records; and how many were leased, with those that have none."""
        tokens = await store.claim_lanes(
            connection, now=now, worker=self._worker, limit=limit, urgent=urgent
        )
        if not tokens:
            return [], 0
        by_lane: dict[str, list[ClaimedRecord]] = {name: [] for name in tokens}
        for record in await claim_records(connection, tokens, now=now, per_lane=per_lane):
            by_lane[record.subscription].append(record)
        empty = [name for name, records in by_lane.items() if not records]
        await store.release_lanes(connection, empty, now=now)
        lanes = [
            Lane(name, tokens[name], tuple(records), probe)
            for name, records in by_lane.items()
            if records
        ]
        return lanes, len(tokens)
