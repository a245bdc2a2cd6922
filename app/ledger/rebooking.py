"""Rebooking: a record whose item Stripe calls gone is resolved once more.

Plan changes delete items and make new ones. If a fresh look at Stripe shows that the item can
indeed not be billed, and nothing of the record stands there, its windows are taken off the record
and booked anew (or parked under the reason that the fresh snapshot gives). Otherwise it is held.
"""

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.clock import Clock
from app.db import transaction
from app.ledger import records as store
from app.ledger import windows as facts
from app.ledger.placing import Placed, rewrite
from app.ledger.windows import SettledWindow
from app.mapping.models import SubscriptionSnapshot
from app.mapping.resolve import ENDED
from app.mapping.snapshots import Snapshots

# The dispatcher's word for it (`app.dispatch.reasons`), which this side must not import.
OUTCOME_IN_DOUBT = "outcome_in_doubt"


def still_billable(snapshot: SubscriptionSnapshot, subscription_item: str) -> bool:
    """Whether the snapshot shows the item as one that takes usage records with `set`."""
    return (
        snapshot.found
        and snapshot.status not in ENDED
        and not snapshot.billing_thresholds
        and any(
            item.id == subscription_item
            and item.usage_type == "metered"
            and item.billing_meter is None
            and not item.billing_thresholds
            for item in snapshot.items
        )
    )


class Rebooker:
    """Resolves refused records once more."""

    def __init__(self, engine: AsyncEngine, clock: Clock, snapshots: Snapshots) -> None:
        self._engine = engine
        self._clock = clock
        self._snapshots = snapshots

    async def resolve_again(
        self, record_id: int, subscription: str, subscription_item: str, *, reason: str
    ) -> None:
        """Read the subscription anew; rebook the record's windows, or hold it for `reason`.

        Raises StripeError where the subscription cannot be read, and DatabaseUnavailable; the
        record is still due then, and comes back here.
        """
        asked_at = self._clock.now()
        snapshot = await self._snapshots.refresh(subscription)
        if snapshot.fetched_at < asked_at:  # a read that was under way before the refusal
            snapshot = await self._snapshots.refresh(subscription)
        gone = not still_billable(snapshot, subscription_item)
        async with transaction(self._engine) as connection:
            windows = await facts.lock_booked(connection, record_id)
            (place,) = await store.places(connection, [record_id], [])
            periods = await store.lock_periods(connection, [place.item_period_id])
            now = self._clock.now()
            await store.lock_lanes(connection, [subscription], due_at=now)
            (record,) = await store.lock_records(connection, [place.key])
            if record.unsettled:
                return  # it was taken up again meanwhile, and that answer decides
            if not (gone and windows and record.reported == 0 and not record.doubtful):
                await _hold(connection, record_id, OUTCOME_IN_DOUBT if record.doubtful else reason)
                return
            emptied = [
                Placed(
                    replace(window, value=Decimal(0)),
                    place.key,
                    place.item_period_id,
                    Fraction(1),
                )
                for window in windows
            ]
            period = periods[place.item_period_id]
            result = rewrite(period, [record], emptied, now=now, linger=timedelta(0))
            if result.missing:
                others = await store.lock_period_records(connection, place.item_period_id)
                others = [other for other in others if other.id != record.id]
                result = rewrite(period, [record, *others], emptied, now=now, linger=timedelta(0))
            await store.write_periods(connection, [result.period])
            await store.write_records(connection, result.records)
            await facts.settle_windows(
                connection, [SettledWindow(window.id, "pending") for window in windows], now=now
            )


async def _hold(connection: AsyncConnection, record_id: int, reason: str) -> None:
    await connection.execute(
        text(
            "update usage_records set state = 'held', reason = :reason, due_at = null "
            "where id = :id and state = 'due'"
        ),
        {"id": record_id, "reason": reason},
    )
