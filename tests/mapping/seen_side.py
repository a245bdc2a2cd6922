"""What the database has seen, for the tests: snapshots of subscriptions and series of windows."""

from datetime import datetime, timedelta

from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db import transaction
from app.mapping.models import SubscriptionSnapshot
from app.mapping.snapshots import Snapshots
from app.tables import usage_series
from tests.mapping.stripe_side import NOW


async def keep(engine: AsyncEngine, *snapshots: SubscriptionSnapshot) -> None:
    """Have the snapshots in the database, as Stripe's answers come there."""
    held = {found.subscription: found for found in snapshots}

    async def read(name: str) -> SubscriptionSnapshot:
        return held[name]

    kept = Snapshots(engine, read, lookups=engine, size=10)
    for name in held:
        await kept.refresh(name)


async def series(
    engine: AsyncEngine, aggregation: str, *, meter: str = "tokens", at: datetime = NOW
) -> None:
    """A series whose newest window ends `at`."""
    async with transaction(engine) as connection:
        await connection.execute(
            insert(usage_series).values(
                meter=meter,
                subject=f"customer of {at}",
                group_key=b"",
                group_by={},
                aggregation=aggregation,
                newest_start=at - timedelta(hours=1),
                newest_end=at,
            )
        )
