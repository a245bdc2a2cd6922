"""Subscription snapshots: what Stripe last said, kept in memory and in the database.

Reads are rationed at Stripe (500 a transaction over 30 days), so a snapshot is read once however
many windows need it, and shared: memory, then the database, then Stripe.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import case, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.clock import Clock
from app.db import among, text, transaction
from app.mapping.cache import Cache
from app.mapping.models import SnapshotItem, SubscriptionSnapshot
from app.mapping.period_ends import correct_ends
from app.mapping.releases import ask
from app.mapping.resolve import ENDED
from app.stripe_client import ProblemKind, StripeAnswered, StripeClient, Subscription
from app.tables import subscription_snapshots

CHANNEL = "meterbridge_snapshots"
# Another replica's read is notified; this bounds the wait where the notification was lost.
MEMORY_TTL = 60.0
NEGATIVE_TTL = 1.0
ALL = "*"
# Just after a period's end it is flushed once more: late enough that OpenMeter has taken in the
# last events, early enough for Stripe's grace.
AFTER_END = timedelta(seconds=10)
JUST_ENDED = timedelta(seconds=60)
SUBSCRIPTION_TIMES = ("cancel_at", "started_at")
PERIOD_BOUNDS = ("period_start", "period_end", "previous_start", "previous_end")


def from_stripe(subscription: Subscription, fetched_at: datetime) -> SubscriptionSnapshot:
    """Stripe's answer as a snapshot: the item's own period, else the subscription's."""

    def at(item: int | None, whole: int | None) -> datetime:
        return datetime.fromtimestamp((item if item is not None else whole) or 0, UTC)

    return SubscriptionSnapshot(
        subscription.id,
        fetched_at,
        found=True,
        status=subscription.status,
        livemode=subscription.livemode,
        billing_thresholds=subscription.billing_thresholds,
        cancel_at=_time(subscription.cancel_at),
        cancel_at_period_end=subscription.cancel_at_period_end,
        customer=subscription.customer,
        started_at=_time(subscription.start_date),
        items=tuple(
            SnapshotItem(
                item.id,
                item.price.id,
                item.price.lookup_key,
                tuple(sorted(item.price.metadata.items())),
                item.price.usage_type,
                item.price.aggregate_usage,
                item.price.meter,
                item.billing_thresholds,
                at(item.current_period_start, subscription.current_period_start),
                at(item.current_period_end, subscription.current_period_end),
            )
            for item in subscription.items
        ),
    )


async def read_from_stripe(client: StripeClient, name: str, clock: Clock) -> SubscriptionSnapshot:
    """Read one subscription. An unknown one is an answer, too; other failures raise StripeError."""
    fetched_at = clock.now()
    try:
        return from_stripe(await client.subscription(name), fetched_at)
    except StripeAnswered as answer:
        if answer.kind is ProblemKind.RESOURCE_MISSING:
            return SubscriptionSnapshot(name, fetched_at, found=False)
        raise


class Snapshots:
    """The cached repository of snapshots.

    `lookups` has connections of its own: booking looks up in the middle of its transaction, and
    must not wait for one that is held by somebody who waits for booking.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        read: Callable[[str], Awaitable[SubscriptionSnapshot]],
        *,
        lookups: AsyncEngine,
        size: int,
        flush_before: timedelta = timedelta(minutes=3),
    ) -> None:
        self._engine = engine
        self.flush_before = flush_before
        self._lookups = lookups
        self._memory: Cache[str, SubscriptionSnapshot] = Cache(
            self._load, ttl=MEMORY_TTL, negative_ttl=NEGATIVE_TTL, size=size
        )
        self._reads: Cache[str, SubscriptionSnapshot] = Cache(
            self._read_all, ttl=0, negative_ttl=0, size=1
        )
        self._read = read

    async def known(self, names: Sequence[str]) -> dict[str, SubscriptionSnapshot]:
        """The snapshots that are at hand, in memory or in the database. No call to Stripe."""
        return await self._memory.get_many(names)

    async def refresh(self, name: str) -> SubscriptionSnapshot:
        """Read from Stripe, once for all who ask at the same time. Raises StripeError."""
        snapshot = await self._reads.get(name)
        assert snapshot is not None  # noqa: S101 - _read_all returns every key or raises
        return snapshot

    def forget(self, name: str) -> None:
        """Another replica has read it anew: take that from the database."""
        self._memory.drop(name)

    def forget_all(self) -> None:
        """Notifications may have been missed."""
        self._memory.clear()

    async def _read_all(self, names: Sequence[str]) -> dict[str, SubscriptionSnapshot]:
        found = {}
        for name in names:
            # Of two reads at once the newer answer stands, whichever came back first.
            found[name] = await self._save(await self._read(name))
            self._memory.put(name, found[name])
        return found

    async def _load(self, names: Sequence[str]) -> Mapping[str, SubscriptionSnapshot]:
        async with transaction(self._lookups) as connection:
            return await stored(connection, names)

    async def _save(self, snapshot: SubscriptionSnapshot) -> SubscriptionSnapshot:
        """Keep it, tell the replicas; if Stripe's side changed, release what waited for that.

        Returns what stands then: it, with the periods that were seen before, or a newer one.
        """
        async with transaction(self._engine) as connection:
            row = (
                await connection.execute(
                    select(subscription_snapshots)
                    .where(subscription_snapshots.c.subscription == snapshot.subscription)
                    .with_for_update()
                )
            ).one_or_none()
            before = None if row is None else row.body
            if row is not None and row.fetched_at > snapshot.fetched_at:
                newer = _from_body(row.fetched_at, row.body)
                if newer is not None:
                    return newer
            snapshot = _remembering(snapshot, before)
            body = _to_body(snapshot)
            ends = ends_at(snapshot)
            statement = insert(subscription_snapshots).values(
                subscription=snapshot.subscription,
                fetched_at=snapshot.fetched_at,
                found=snapshot.found,
                body=body,
                ends_at=ends,
                flush_at=self._flush_at(snapshot, ends),
            )
            await connection.execute(
                statement.on_conflict_do_update(
                    index_elements=[subscription_snapshots.c.subscription],
                    set_={
                        "fetched_at": statement.excluded.fetched_at,
                        "found": statement.excluded.found,
                        "body": statement.excluded.body,
                        "ends_at": statement.excluded.ends_at,
                        "flush_at": case(
                            (
                                subscription_snapshots.c.ends_at.is_distinct_from(
                                    statement.excluded.ends_at
                                ),
                                statement.excluded.flush_at,
                            ),
                            else_=subscription_snapshots.c.flush_at,
                        ),
                    },
                    # A slower read must not put an older answer over a newer one.
                    where=subscription_snapshots.c.fetched_at <= statement.excluded.fetched_at,
                )
            )
            # Each time: another replica may have made a period by what was known before.
            await correct_ends(connection, snapshot)
            if before != body:
                await ask(connection, "subscription", [snapshot.subscription])
            await connection.execute(
                text("select pg_notify(:channel, :name)"),
                {"channel": CHANNEL, "name": snapshot.subscription},
            )
        return snapshot

    def _flush_at(self, snapshot: SubscriptionSnapshot, ends: datetime | None) -> datetime | None:
        """When to flush next, of a subscription whose period has changed."""
        ended = just_ended(snapshot, snapshot.fetched_at)
        if ended is not None:
            return ended + AFTER_END
        return None if ends is None else ends - self.flush_before


def just_ended(snapshot: SubscriptionSnapshot, now: datetime) -> datetime | None:
    """When the period before the current one ended, where that is less than JUST_ENDED ago."""
    ends = [item.previous_end for item in snapshot.items if item.previous_end is not None]
    return max((end for end in ends if timedelta(0) <= now - end < JUST_ENDED), default=None)


async def stored(
    connection: AsyncConnection, names: Iterable[str]
) -> dict[str, SubscriptionSnapshot]:
    """The snapshots of these subscriptions that are in the database."""
    rows = await connection.execute(
        select(subscription_snapshots).where(among(subscription_snapshots.c.subscription, names))
    )
    found = {row.subscription: _from_body(row.fetched_at, row.body) for row in rows}
    return {name: snapshot for name, snapshot in found.items() if snapshot is not None}


def ends_at(snapshot: SubscriptionSnapshot) -> datetime | None:
    """When the current period ends, or the subscription itself before that."""
    if snapshot.status in ENDED or not snapshot.items:
        return None
    ends = [item.period_end for item in snapshot.items]
    return min([*ends, snapshot.cancel_at] if snapshot.cancel_at is not None else ends)


def _remembering(
    snapshot: SubscriptionSnapshot, before: dict[str, Any] | None
) -> SubscriptionSnapshot:
    """The snapshot with the previous period of each item, as far as it was seen.

    Stripe tells only the current one, and usage may still come for the one before.
    """
    earlier = _from_body(snapshot.fetched_at, before) if before else None
    seen = {item.id: item for item in earlier.items} if earlier else {}
    return replace(
        snapshot,
        items=tuple(_with_previous(item, seen.get(item.id)) for item in snapshot.items),
    )


def _with_previous(item: SnapshotItem, before: SnapshotItem | None) -> SnapshotItem:
    if before is None:
        return item
    if before.period_start < item.period_start:
        # It may have ended before its time: a threshold or an upgrade moves the anchor.
        end = min(before.period_end, item.period_start)
        return replace(item, previous_start=before.period_start, previous_end=end)
    return replace(item, previous_start=before.previous_start, previous_end=before.previous_end)


def _to_body(snapshot: SubscriptionSnapshot) -> dict[str, Any]:
    body = asdict(snapshot)
    del body["fetched_at"]
    for name in SUBSCRIPTION_TIMES:
        body[name] = _seconds(body[name])
    for item in body["items"]:
        for name in PERIOD_BOUNDS:
            item[name] = _seconds(item[name])
        item["price_metadata"] = dict(item["price_metadata"])
    body["items"] = list(body["items"])
    return body


def _from_body(fetched_at: datetime, body: dict[str, Any]) -> SubscriptionSnapshot | None:
    """The snapshot as it was stored; None (then it is read again) where another version wrote it
    without what this one needs. What this one does not know is passed over."""
    try:
        items = tuple(
            SnapshotItem(
                **{
                    **_known(SnapshotItem, item),
                    "price_metadata": tuple(sorted(item["price_metadata"].items())),
                    "period_start": datetime.fromtimestamp(item["period_start"], UTC),
                    "period_end": datetime.fromtimestamp(item["period_end"], UTC),
                    "previous_start": _time(item.get("previous_start")),
                    "previous_end": _time(item.get("previous_end")),
                }
            )
            for item in body["items"]
        )
        members = {
            **_known(SubscriptionSnapshot, body),
            "fetched_at": fetched_at,
            "items": items,
            **{name: _time(body.get(name)) for name in SUBSCRIPTION_TIMES},
        }
        return SubscriptionSnapshot(**members)
    except (KeyError, TypeError, AttributeError):
        return None


def _seconds(at: datetime | None) -> int | None:
    return None if at is None else int(at.timestamp())


def _time(seconds: int | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def _known(kind: type[SnapshotItem | SubscriptionSnapshot], body: dict[str, Any]) -> dict[str, Any]:
    names = {member.name for member in fields(kind)}
    return {name: value for name, value in body.items() if name in names}
