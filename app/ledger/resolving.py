"""Resolving a batch: what is known of mappings and subscriptions, and what each window makes of it.

No network here: a window whose subscription was never read, or too long ago, stays pending.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from app.ledger import records as store
from app.ledger.asking import answered, asked_anew
from app.ledger.ended import billed_before_the_end
from app.ledger.periods import known_periods
from app.ledger.provisional import overlapped
from app.ledger.windows import AWAITING_SNAPSHOT, PendingWindow, SettledWindow, parked_beside
from app.mapping.cached import CachedMappings, KnownMappings
from app.mapping.models import SubscriptionSnapshot
from app.mapping.resolution import (
    Booking,
    InParts,
    Late,
    NeedsSnapshot,
    Parked,
    Resolution,
    Rules,
    Target,
    WholePeriod,
)
from app.mapping.resolve import message_fits, resolve, settle_late
from app.mapping.snapshots import Snapshots

# How long a window waits for the process that reads its snapshot, before another one tries.
SNAPSHOT_PATIENCE = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class ResolvedBatch:
    """Windows with a target, windows that stand on a record already, and those that must wait.

    `leaving`: windows that are to be taken off their records, as another place can take them.
    `covered`: other windows, which OpenMeter is asked for, count in their place. `subscriptions`
    must be read from Stripe before more can be done.
    """

    targets: list[tuple[PendingWindow, Target]]
    standing: list[PendingWindow]
    leaving: list[PendingWindow]
    covered: list[tuple[PendingWindow, InParts | WholePeriod]]
    waiting: list[SettledWindow]
    subscriptions: frozenset[str]


class BatchResolver:
    """Resolves windows by the cached mappings and snapshots."""

    def __init__(self, mappings: CachedMappings, snapshots: Snapshots, rules: Rules) -> None:
        self._mappings = mappings
        self._snapshots = snapshots
        self._rules = rules

    def sync(self, version: int) -> None:
        """The mappings' version, as read under the shared mapping lock."""
        self._mappings.sync(version)

    async def resolve(
        self, connection: AsyncConnection, pending: Sequence[PendingWindow], now: datetime
    ) -> ResolvedBatch:
        """Find the target of each window. Raises DatabaseUnavailable."""
        batch = ResolvedBatch([], [], [], [], [], frozenset())
        others = _not_standing(pending, batch)
        known = await self._mappings.find(
            {window.facts.subject for window in others}, {window.facts.meter for window in others}
        )
        found = await self._resolve(others, known, now)
        found = await billed_before_the_end(connection, found, self._rules)
        homes = await _homes(connection, [window for window in others if window.leaving])
        needed: set[str] = set()
        for window, resolution in await self._settle_late(connection, found, now):
            match resolution:
                case Target(subscription_item=item) if item == homes.get(window.id):
                    batch.standing.append(window._replace(moving_from=None))
                case Target() | InParts() | WholePeriod() if window.leaving:
                    batch.leaving.append(window)
                case WholePeriod(target=target) if answered(window, resolution):
                    batch.targets.append((window, target))
                case Target():
                    batch.targets.append((window, resolution))
                case InParts() | WholePeriod():
                    batch.covered.append((window, resolution))
                case NeedsSnapshot(subscription):
                    needed.add(subscription)
                    batch.waiting.append(_awaiting(window, subscription, now))
                case Parked(reason, detail, retry_at):
                    parked = parked_beside(window, reason, detail)
                    batch.waiting.append(parked._replace(retry_at=retry_at))
        again = asked_anew(pending, batch.covered)
        return replace(
            batch,
            targets=[found for found in batch.targets if found[0].id not in again],
            standing=[window for window in batch.standing if window.id not in again],
            waiting=[settled for settled in batch.waiting if settled.id not in again],
            subscriptions=frozenset(needed),
        )

    async def _settle_late(
        self,
        connection: AsyncConnection,
        found: Sequence[tuple[PendingWindow, Resolution]],
        now: datetime,
    ) -> list[tuple[PendingWindow, Booking | NeedsSnapshot]]:
        """Look up the periods of late windows, all at once, and settle these."""
        late = [(window, late) for window, late in found if isinstance(late, Late)]
        periods = await known_periods(connection, {found.place.item.id for _, found in late})
        flushed = {by for _, by in await overlapped(connection, [window for window, _ in late])}
        return [
            (
                window,
                settle_late(
                    window.facts,
                    resolution,
                    periods.get(resolution.place.item.id, ()),
                    self._rules,
                    now,
                    flushed=window.id in flushed,
                )
                if isinstance(resolution, Late)
                else resolution,
            )
            for window, resolution in found
        ]

    async def _resolve(
        self, windows: Iterable[PendingWindow], known: KnownMappings, now: datetime
    ) -> list[tuple[PendingWindow, Resolution]]:
        names = {span.subscription for spans in known.subjects.values() for span in spans}
        snapshots = await self._snapshots.known(sorted(names))
        found = {
            window.id: (window, self._one(window, known, snapshots, now)) for window in windows
        }
        again = {
            id_: resolution.subscription
            for id_, (window, resolution) in found.items()
            if isinstance(resolution, NeedsSnapshot) and window.just_read
        }
        if again:
            # Another replica may have read it, and its notification be on the way.
            for name in set(again.values()):
                self._snapshots.forget(name)
            snapshots |= await self._snapshots.known(sorted(set(again.values())))
            for id_ in again:
                window, _ = found[id_]
                found[id_] = window, self._one(window, known, snapshots, now, just_read=True)
        return list(found.values())

    def _one(
        self,
        window: PendingWindow,
        known: KnownMappings,
        snapshots: dict[str, SubscriptionSnapshot],
        now: datetime,
        *,
        just_read: bool = False,
    ) -> Resolution:
        return resolve(
            window.facts,
            subjects=known.subjects.get(window.facts.subject, ()),
            meters=known.meters.get(window.facts.meter, ()),
            snapshots=snapshots,
            now=now,
            rules=self._rules,
            just_read=just_read,
        )


def _not_standing(pending: Iterable[PendingWindow], batch: ResolvedBatch) -> list[PendingWindow]:
    """Put the windows that stay on their records into the batch; returns the others."""
    others: list[PendingWindow] = []
    for window in pending:
        unfit = message_fits(window.facts)
        if window.usage_record_id is None:
            others.append(window)
        elif unfit is not None:
            batch.waiting.append(parked_beside(window, unfit.reason, unfit.detail))
        elif window.leaving:
            others.append(window)
        else:
            batch.standing.append(window)
    return others


async def _homes(connection: AsyncConnection, windows: Sequence[PendingWindow]) -> dict[int, str]:
    """The items that windows stand on: a mapping that is changed back leaves them there."""
    records = {w.usage_record_id for w in windows if w.usage_record_id is not None}
    if not records:
        return {}
    items = {p.id: p.key.subscription_item for p in await store.places(connection, records, [])}
    return {w.id: items[w.usage_record_id] for w in windows if w.usage_record_id is not None}


def _awaiting(window: PendingWindow, subscription: str, now: datetime) -> SettledWindow:
    return SettledWindow(
        window.id,
        "pending",
        AWAITING_SNAPSHOT,
        subscription,
        now + SNAPSHOT_PATIENCE,
        usage_record_id=window.usage_record_id,
        amount=window.amount,
        scale=window.scale,
        moving_from=window.moving_from,
    )
