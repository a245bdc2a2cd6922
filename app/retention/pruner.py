"""Pruning: what is older than the retention is deleted, in small batches, each its own commit.

One replica at a time, by an advisory lock that ends with each batch's transaction: so a replica
that dies keeps nobody. Every batch leaves a state that booking, sending and explaining can work on.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.clock import Clock
from app.db import text, transaction
from app.errors import DatabaseUnavailable, StatementTimeout
from app.retention.messages import empty_bodies, prune_attempts, prune_deliveries
from app.retention.older import OlderReplica, older_replica
from app.retention.periods import mark_pruned
from app.retention.terms import Batch, Place, Swept, Terms
from app.retention.windows import prune_covered, prune_periods
from app.waiting import set_within

logger = logging.getLogger(__name__)

PRUNING_LOCK = 7_261_946_004
ROWS_AT_ONCE: Final = 1_000
FEWEST_AT_ONCE: Final = 10
PERIODS_AT_ONCE: Final = 100
# Between two batches: at most 10,000 rows a second, and the database has time for its work.
PAUSE: Final = 0.1
SWEEP_EVERY: Final = 3_600.0
# A process that is started over and over must not prune each time it starts.
FIRST_SWEEP_AFTER: Final = 60.0
# What was kept when a sweep came by may have been booked or settled since.
FULL_PASS_EVERY: Final = timedelta(days=1)

_Step = Callable[[AsyncConnection, Batch], Awaitable[Swept]]


@dataclass(frozen=True, slots=True)
class _Sweep:
    step: _Step
    before: datetime
    limit: int = ROWS_AT_ONCE
    # Reads what it leaves in place, too: 130 million deliveries from their beginning, every hour,
    # were hours of reading. It goes on where it was, and begins anew once a day.
    goes_on: bool = False


@dataclass(frozen=True, slots=True)
class _Reached:
    """Up to where a sweep has looked, in a pass that began at `since`."""

    place: Place
    since: datetime


class Pruner:
    """Prunes by the terms. Any number may share a database: one of them works at a time."""

    def __init__(
        self,
        engine: AsyncEngine,
        clock: Clock,
        terms: Terms,
        *,
        rows_at_once: int = ROWS_AT_ONCE,
        pause: float = PAUSE,
        dry_run: bool = False,
    ) -> None:
        """`dry_run`: each batch is taken back. What goes with item periods is not counted then."""
        self._engine = engine
        self._clock = clock
        self._terms = terms
        self._rows_at_once = rows_at_once
        self._pause = pause
        self._dry_run = dry_run
        self._reached: dict[_Step, _Reached] = {}
        self.older: OlderReplica | None = None
        """For whose sake nothing (more) was deleted, or would be, by the last sweep."""
        self.elsewhere = False
        """Whether the last sweep found another replica at it, and left it the rest."""

    async def sweep(self) -> Counter[str]:
        """Delete everything that is old enough; rows by table (`bodies`: emptied ones).

        Ends early where another replica is at it, or one of an older program was seen within a
        day: that would bill anew what is told again. Raises DatabaseUnavailable; what was deleted
        by then is committed.
        """
        pruned: Counter[str] = Counter()
        self.elsewhere = False
        for sweep in self._sweeps():
            if not await self._run(sweep, pruned):
                break
        return +pruned

    def _sweeps(self) -> list[_Sweep]:
        now, rows = self._clock.now(), self._rows_at_once
        sweeps = []
        if self._terms.ledger is not None:
            before = now - self._terms.ledger
            sweeps += [
                _Sweep(mark_pruned, before, min(rows, PERIODS_AT_ONCE)),
                _Sweep(prune_periods, before, rows),
                _Sweep(prune_covered, before, rows),
                _Sweep(prune_deliveries, before, rows, goes_on=True),
            ]
        if self._terms.raw is not None:
            before = now - self._terms.raw
            sweeps += [
                _Sweep(prune_attempts, before, rows, goes_on=True),
                _Sweep(empty_bodies, before, rows, goes_on=True),
            ]
        return sweeps

    async def _run(self, sweep: _Sweep, pruned: Counter[str]) -> bool:
        """Batch after batch; whether it came to its end."""
        place: Place | None
        place, since = self._begin(sweep)
        limit = sweep.limit
        while place is not None:
            try:
                swept = await self._batch(sweep, place, limit)
            except StatementTimeout:
                if limit == FEWEST_AT_ONCE:
                    raise
                limit = max(limit // 2, FEWEST_AT_ONCE)
                continue
            if swept is None:
                return False
            pruned.update(swept.pruned)
            self._reached[sweep.step] = _Reached(place, since)
            place = swept.next
            await asyncio.sleep(self._pause)
        return True

    def _begin(self, sweep: _Sweep) -> tuple[Place, datetime]:
        """Where to begin, and when that pass began: at the batch that was the last one."""
        now, reached = self._clock.now(), self._reached.get(sweep.step)
        if not sweep.goes_on or reached is None or now - reached.since >= FULL_PASS_EVERY:
            return Place(), now
        return reached.place, reached.since

    async def _batch(self, sweep: _Sweep, place: Place, limit: int) -> Swept | None:
        """One batch in its own transaction; None where nothing may be pruned (any more)."""
        async with transaction(self._engine) as connection:
            mine = await connection.scalar(
                text("select pg_try_advisory_xact_lock(:key)"), {"key": PRUNING_LOCK}
            )
            self.elsewhere = not mine
            if not mine or await self._older_works(connection):
                return None
            batch = Batch(self._clock.now(), sweep.before, place, limit)
            swept = await sweep.step(connection, batch)
            if self._dry_run:
                await connection.rollback()
            return swept

    async def _older_works(self, connection: AsyncConnection) -> bool:
        """Whether an older program works on this database; said once for each that is found."""
        before, self.older = self.older, await older_replica(connection, now=self._clock.now())
        if self._dry_run or self.older is None:
            return False
        if before is None or before.name != self.older.name:
            logger.warning(
                "nothing is pruned: replica %s is of an older program, which would bill again what "
                "was pruned; pruning begins a day after the last one was seen",
                self.older.name,
            )
        return True


class PruningLoop:
    """Sweeps now and then until it is stopped."""

    def __init__(
        self, pruner: Pruner, *, first_after: float = FIRST_SWEEP_AFTER, every: float = SWEEP_EVERY
    ) -> None:
        self._pruner = pruner
        self._first_after = first_after
        self._every = every
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Return from `run`. A batch that is under way is given up: it is pruned later."""
        self._stopping.set()

    async def run(self) -> None:
        """Sweep until stopped. Ends by the first error that nobody foresaw."""
        pause = self._first_after
        while not await set_within(self._stopping, pause):
            pause = self._every
            sweeping = asyncio.create_task(self._pruner.sweep(), name="sweep")
            stopping = asyncio.create_task(self._stopping.wait())
            try:
                await asyncio.wait({sweeping, stopping}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (sweeping, stopping):
                    task.cancel()
            (outcome, _) = await asyncio.gather(sweeping, stopping, return_exceptions=True)
            match outcome:
                case Counter() if outcome:
                    logger.info(
                        "pruned: %s", ", ".join(f"{n} {name}" for name, n in outcome.items())
                    )
                case DatabaseUnavailable():
                    logger.warning("the database is not available; it is pruned later")
                case Exception():
                    raise outcome
