"""Step 2, book: deliveries -> usage windows -> the usage record each belongs to. One commit.

    claim received deliveries and pending windows          rows locked, nobody else has them
    lock the windows' series, revise what is there, keep its history
    park what overlaps another window, and what takes away more than is let through unasked
    resolve them under the shared mapping lock             from what is known: no network here
    write totals, records, lanes, new windows, and what became of each

A window whose subscription was never read (or too long ago) stays pending; the snapshot is read
after the commit and the window is booked in the next round. Nothing is ever between two stools: a
kill at any point leaves the delivery received, or its windows in the ledger.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.clock import Clock
from app.db import transaction
from app.errors import StatementTimeout
from app.ledger import deliveries as received
from app.ledger import windows as facts
from app.ledger.approval import awaits_approval
from app.ledger.asking import cover
from app.ledger.deliveries import ClaimedDelivery
from app.ledger.incoming import IncomingWindow, incoming
from app.ledger.keeping import Kept, keep_windows
from app.ledger.moving import not_down_yet, taken_off
from app.ledger.new_records import PlaceMoved
from app.ledger.overlaps import admit
from app.ledger.parts import boundaries, parts_of
from app.ledger.provisional import displace, overlapped, regular_windows
from app.ledger.recording import record
from app.ledger.resolving import BatchResolver
from app.ledger.rounds import (
    BYTES_PER_BATCH,
    DELIVERIES_PER_BATCH,
    WINDOWS_PER_BATCH,
    Claim,
    Round,
)
from app.ledger.series import measure_newest
from app.ledger.taking import Waiting, take
from app.ledger.unforeseen import UNFORESEEN
from app.ledger.unwritten import WindowAppeared
from app.ledger.waking import wake
from app.ledger.windows import PendingWindow, SettledWindow
from app.mapping.cached import CachedMappings
from app.mapping.reasons import ParkReason
from app.mapping.repository import hold_mappings
from app.mapping.resolution import InParts, Rules, WindowSource
from app.mapping.snapshots import Snapshots
from app.openmeter.report import InvalidMessage, UnknownType, UsageReport, parse_message

logger = logging.getLogger(__name__)

# What another replica commits meanwhile is seen at the next look. What is never seen is no other
# replica's, and is to be found piece by piece.
MOST_REPEATS = 20


@dataclass(frozen=True, slots=True)
class _Slow:
    """Pieces whose booking took too long: of their own, or because the database was slow."""

    deliveries: list[int] = field(default_factory=list)
    windows: list[int] = field(default_factory=list)


class Booker:
    """Books batches. Any number of bookers may work on one database."""

    def __init__(
        self,
        engine: AsyncEngine,
        clock: Clock,
        mappings: CachedMappings,
        snapshots: Snapshots,
        *,
        linger: timedelta,
        rules: Rules,
        approve_reductions_above: Decimal | None = None,
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._resolver = BatchResolver(mappings, snapshots, rules)
        self._linger = linger
        self._queries = rules.queries
        self._approve_reductions_above = approve_reductions_above

    async def book(self) -> Round:
        """Wake what waits, and book one batch. Raises DatabaseUnavailable.

        What cannot be booked for a reason nobody foresaw must not stop what is behind it: a batch
        that fails is booked piece by piece, and the culprit is set aside where the summary shows
        it: a delivery as `failed`, a window parked as `booking_failed`.
        """
        try:
            done = await self._book(Claim(regardless=False))
            if done.waiting.to_be_woken:
                now = self._clock.now()
                await wake(self._engine, done.waiting, limit=WINDOWS_PER_BATCH, now=now)
                done = await self._book(Claim())
            return done
        except UNFORESEEN:
            logger.exception("a batch could not be booked; it is booked piece by piece")
            return await self._book_pieces()

    async def _book_pieces(self) -> Round:
        deliveries, windows = await self._waiting()
        done = Round()
        slow = _Slow()
        for delivery in deliveries:
            done += await self._book_delivery(delivery, slow)
        done += await self._book_windows(windows, slow)
        if done.idle and (slow.deliveries or slow.windows):
            # Nothing at all can be booked: that is the database, and nobody is kept waiting.
            raise StatementTimeout
        for delivery in slow.deliveries:
            done += await self._book_delivery(delivery)
        for window in slow.windows:
            done += await self._book_windows([window])
        return done

    async def _waiting(self) -> tuple[list[int], list[int]]:
        """The ids of what a batch would take."""
        async with transaction(self._engine) as connection:
            deliveries = await received.waiting_deliveries(
                connection, DELIVERIES_PER_BATCH, total_bytes=BYTES_PER_BATCH
            )
            windows = await facts.claim_pending(
                connection, now=self._clock.now(), limit=WINDOWS_PER_BATCH
            )
        return deliveries, [window.id for window in windows]

    async def _book_delivery(self, delivery: int, slow: _Slow | None = None) -> Round:
        """Book one delivery, or set it aside; or leave it in `slow`."""
        try:
            return await self._book(Claim(windows=0, only_delivery=delivery))
        except UNFORESEEN as error:
            if slow is not None and isinstance(error, StatementTimeout):
                slow.deliveries.append(delivery)
                return Round()
            logger.exception("delivery %d could not be booked: set aside as failed", delivery)
            async with transaction(self._engine) as connection:
                still = await received.waiting_deliveries(
                    connection, 1, total_bytes=BYTES_PER_BATCH, only=delivery
                )
                await received.fail_deliveries(
                    connection, still, fault=type(error).__name__, now=self._clock.now()
                )
            return Round(deliveries=len(still))

    async def _book_windows(self, windows: Sequence[int], slow: _Slow | None = None) -> Round:
        """Book pending windows, half by half where they fail; the culprit is treated the same."""
        if not windows:
            return Round()
        try:
            return await self._book(Claim(deliveries=0, only_windows=windows))
        except UNFORESEEN as error:
            if len(windows) > 1:
                half = len(windows) // 2
                first = await self._book_windows(windows[:half], slow)
                return first + await self._book_windows(windows[half:], slow)
            if slow is not None and isinstance(error, StatementTimeout):
                slow.windows.append(windows[0])
                return Round()
            logger.exception("window %d could not be booked: set aside", windows[0])
            reason = ParkReason.BOOKING_FAILED
            async with transaction(self._engine) as connection:
                await facts.set_aside(
                    connection, windows, reason=reason, detail=type(error).__name__
                )
            return Round(windows=1, parked=Counter([reason]))

    async def _book(self, claim: Claim) -> Round:
        for _ in range(MOST_REPEATS):
            try:
                return await self._book_once(claim)
            # By a commit of another replica: the next look sees it.
            except (PlaceMoved, WindowAppeared) as moved:
                logger.info("%s meanwhile; the batch is repeated", type(moved).__name__)
        raise LookupError("a batch was another one at each look")

    async def _book_once(self, claim: Claim) -> Round:
        now = self._clock.now()
        async with transaction(self._engine) as connection:
            await hold_mappings(connection)
            taken = await take(
                connection,
                limit=claim.deliveries,
                total_bytes=BYTES_PER_BATCH,
                only=claim.only_delivery,
                regardless=claim.regardless,
                nobody=not self._queries,
                now=now,
            )
            if taken.waiting.to_be_woken and not claim.regardless:
                return Round(waiting=taken.waiting)
            self._resolver.sync(taken.version)
            kept = await _keep(connection, taken.deliveries, now)
            pending = {window.id: window for window in kept.pending}
            for window in await self._claim_pending(connection, claim, taken.waiting, now):
                pending.setdefault(window.id, window)
            begun = Round(
                len(taken.deliveries),
                more=_at_its_bounds(claim, taken.deliveries, len(pending) - len(kept.pending)),
                waiting=taken.waiting,
            )
            unwritten = kept.unwritten
            admitted = await admit(connection, list(pending.values()), locked=kept.series)
            windows, unapproved = await self._let_through(connection, admitted.windows)
            not_down = await not_down_yet(connection, windows, now=now)
            parked = [*admitted.parked, *unapproved, *not_down]
            if not windows and not parked:
                return begun
            windows = _without(windows, not_down)
            again = await _divided(connection, windows)
            batch = await self._resolver.resolve(
                connection, [w for w in windows if w.id not in again], now
            )
            others = [*again.values(), *batch.covered]
            # Their parts refer to them.
            await unwritten.write(connection, only=[window.id for window, _ in others], now=now)
            covered = await cover(connection, others, now=now)
            regular = regular_windows(batch.targets) if admitted.provisional else ()
            pairs = await overlapped(connection, regular)
            if pairs:  # what is left of provisional windows goes around those that are there
                await unwritten.write(connection, now=now)
            displaced = await displace(connection, batch.targets, batch.standing, pairs, now=now)
            leaving = {w.id: w for w in batch.leaving if w.id not in displaced.ids}
            booked = await record(
                connection,
                displaced.targets,
                [*displaced.standing, *leaving.values()],
                now=now,
                linger=self._linger,
                gone={*displaced.replaced, *leaving},
            )
            # What is refused stays: it counts where it stands, and would count twice elsewhere.
            for refused in (w for w in booked if w.state == "parked"):
                leaving.pop(refused.id, None)
            waiting = [w for w in batch.waiting if w.id not in displaced.ids]
            left = [taken_off(window, now=now) for window in leaving.values()]
            stayed = [w for w in displaced.settle(booked) if w.id not in leaving]
            settled = [*parked, *waiting, *covered, *left, *stayed]
            rows = await unwritten.write(connection, settled, now=now)
            await facts.settle_windows(connection, rows, now=now)
            await kept.write_history(connection, now=now)
            await measure_newest(connection, admitted.changed)
        reasons = Counter(w.reason for w in settled if w.state == "parked" and w.reason)
        return replace(
            begun,
            windows=len(windows) + len(parked),
            subscriptions=batch.subscriptions,
            parked=reasons,
        )

    async def _claim_pending(
        self, connection: AsyncConnection, claim: Claim, waiting: Waiting, now: datetime
    ) -> list[PendingWindow]:
        if claim.only_windows is None and not waiting.windows:
            return []
        return await facts.claim_pending(
            connection, now=now, limit=claim.windows, only=claim.only_windows
        )

    async def _let_through(
        self, connection: AsyncConnection, windows: Sequence[PendingWindow]
    ) -> tuple[list[PendingWindow], list[SettledWindow]]:
        """Sort out the revisions that somebody has to approve."""
        above = self._approve_reductions_above
        if above is None:
            return list(windows), []
        revised = [w.id for w in windows if w.usage_record_id is None and w.revision > 1]
        parts = await parts_of(connection, revised)
        asked = {w.id: awaits_approval(w, above=above, parts=parts.get(w.id, ())) for w in windows}
        return (
            [window for window in windows if asked[window.id] is None],
            [parked for parked in asked.values() if parked is not None],
        )


def _without(
    windows: Sequence[PendingWindow], settled: Sequence[SettledWindow]
) -> list[PendingWindow]:
    ids = {window.id for window in settled}
    return [window for window in windows if window.id not in ids]


async def _divided(
    connection: AsyncConnection, windows: Sequence[PendingWindow]
) -> dict[int, tuple[PendingWindow, InParts]]:
    """Windows that have parts: these go on counting in their place. A part may have some, too."""
    revised = {
        w.id: w
        for w in windows
        if w.usage_record_id is None and (w.revision > 1 or w.facts.source is WindowSource.PART)
    }
    found = await boundaries(connection, revised)
    return {id_: (revised[id_], InParts(boundary)) for id_, boundary in found.items()}


async def _keep(
    connection: AsyncConnection, deliveries: Sequence[ClaimedDelivery], now: datetime
) -> Kept:
    """Store the windows of deliveries."""
    told: list[IncomingWindow] = []
    for delivery in deliveries:
        try:
            report = parse_message(delivery.body)
        except (InvalidMessage, UnknownType) as error:
            # It was accepted by a version that read it otherwise: shown, never dropped.
            logger.error("delivery %s was accepted but is not a report", delivery.svix_id)
            fault = type(error).__name__
            await received.fail_deliveries(connection, [delivery.id], fault=fault, now=now)
            continue
        if isinstance(report, UsageReport):
            told.extend(incoming(delivery, report))
    kept = await keep_windows(connection, told, now=now)
    if kept.older:
        logger.info("%d windows were older than what is known: kept as history", kept.older)
    return kept


def _at_its_bounds(claim: Claim, deliveries: Sequence[ClaimedDelivery], windows: int) -> bool:
    """Whether a batch took as much as it may, so that more may be left."""
    return (
        len(deliveries) >= max(claim.deliveries, 1)
        or sum(len(delivery.body) for delivery in deliveries) >= BYTES_PER_BATCH
        or windows >= max(claim.windows, 1)
    )
