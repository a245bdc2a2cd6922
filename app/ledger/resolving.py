"""Resolving a batch: what is known of mappings and subscriptions, and what each window makes of it.

No network here: a window whose subscription was never read, or too long ago, stays pending.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from app.ledger.windows import AWAITING_SNAPSHOT, PendingWindow, SettledWindow
from app.mapping.cached import CachedMappings, KnownMappings
from app.mapping.models import SubscriptionSnapshot
from app.mapping.resolve import (
    NeedsSnapshot,
    Parked,
    Resolution,
    Target,
    message_fits,
    resolve,
)
from app.mapping.snapshots import Snapshots
from app.mapping.splitting import matching

# How long a window waits for the process that reads its snapshot, before another one tries.
SNAPSHOT_PATIENCE = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class ResolvedBatch:
    """Windows with a target, windows that stand on a record already, and those that must wait.

    `subscriptions` must be read from Stripe before more can be done.
    """

    targets: list[tuple[PendingWindow, Target]]
    standing: list[PendingWindow]
    waiting: list[SettledWindow]
    subscriptions: frozenset[str]


class BatchResolver:
    """Resolves windows by the cached mappings and snapshots."""

    def __init__(
        self, mappings: CachedMappings, snapshots: Snapshots, *, snapshot_max_age: timedelta
    ) -> None:
        self._mappings = mappings
        self._snapshots = snapshots
        self._snapshot_max_age = snapshot_max_age

    def sync(self, version: int) -> None:
        """The mappings' version, as read under the shared mapping lock."""
        self._mappings.sync(version)

    async def resolve(self, pending: Sequence[PendingWindow], now: datetime) -> ResolvedBatch:
        """Find the target of each window. Raises DatabaseUnavailable."""
        booked = [window for window in pending if window.usage_record_id is not None]
        standing = [window for window in booked if message_fits(window.facts) is None]
        unfit = [window for window in booked if message_fits(window.facts) is not None]
        others = [window for window in pending if window.usage_record_id is None]
        known = await self._mappings.find(
            {window.facts.subject for window in pending}, {window.facts.meter for window in pending}
        )
        found = await self._resolve(others, known, now)
        targets: list[tuple[PendingWindow, Target]] = []
        waiting = [_unfit(window) for window in unfit]
        needed: set[str] = set()
        for window, resolution in found:
            if isinstance(resolution, Target):
                targets.append((window, resolution))
            else:
                waiting.append(_waiting(window, resolution, now))
                if isinstance(resolution, NeedsSnapshot):
                    needed.add(resolution.subscription)
        return ResolvedBatch(targets, standing, waiting, frozenset(needed))

    async def _resolve(
        self, windows: Iterable[PendingWindow], known: KnownMappings, now: datetime
    ) -> list[tuple[PendingWindow, Resolution]]:
        names = {span.subscription for spans in known.subjects.values() for span in spans}
        snapshots = await self._snapshots.known(sorted(names))
        found = {window: self._one(window, known, snapshots, now) for window in windows}
        again = {
            window: resolution.subscription
            for window, resolution in found.items()
            if isinstance(resolution, NeedsSnapshot) and window.just_read
        }
        if again:
            # Another replica may have read it, and its notification be on the way.
            for name in set(again.values()):
                self._snapshots.forget(name)
            snapshots |= await self._snapshots.known(sorted(set(again.values())))
            for window in again:
                found[window] = self._one(window, known, snapshots, now, just_read=True)
        return list(found.items())

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
            meter=matching(known.meters.get(window.facts.meter, ()), dict(window.facts.group_by)),
            snapshots=snapshots,
            now=now,
            snapshot_max_age=self._snapshot_max_age,
            just_read=just_read,
        )


def _unfit(window: PendingWindow) -> SettledWindow:
    """A revision that cannot be added up: it is parked, and what was booked before stays."""
    why = message_fits(window.facts)
    assert why is not None  # noqa: S101 - the caller chose such windows
    return SettledWindow(
        window.id,
        "parked",
        why.reason,
        f"{why.detail}; what was booked of this window before stays",
        usage_record_id=window.usage_record_id,
        amount=window.amount,
        scale=window.scale,
    )


def _waiting(window: PendingWindow, why: Parked | NeedsSnapshot, now: datetime) -> SettledWindow:
    if isinstance(why, Parked):
        return SettledWindow(window.id, "parked", why.reason, why.detail, why.retry_at)
    return SettledWindow(
        window.id, "pending", AWAITING_SNAPSHOT, why.subscription, now + SNAPSHOT_PATIENCE
    )
