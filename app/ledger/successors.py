"""The item that takes what another can take no more: itself, or what a plan change put there."""

from collections.abc import Sequence

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db import transaction
from app.mapping.aggregation import combination_of
from app.mapping.cached import CachedMappings
from app.mapping.models import Combination, SnapshotItem, SubscriptionSnapshot
from app.mapping.resolve import ENDED, Parked, billable_item
from app.mapping.splitting import matching


class Successors:
    """Finds the item of a subscription that bills now what stands on some records."""

    def __init__(self, engine: AsyncEngine, mappings: CachedMappings) -> None:
        self._engine = engine
        self._mappings = mappings

    async def find(
        self, subscription_item: str, snapshot: SubscriptionSnapshot, records: Sequence[int]
    ) -> SnapshotItem | None:
        """The item itself where it is still there, else the one that its meter is mapped to."""
        if not snapshot.found or snapshot.status in ENDED:
            return None
        for item in snapshot.items:
            if item.id == subscription_item and item.billing_meter is None:
                return item
        async with transaction(self._engine) as connection:
            row = (
                await connection.execute(
                    text(
                        """
                        select meter, group_by from usage_windows
                        where usage_record_id = any(cast(:records as bigint[]))
                        order by id limit 1
                        """
                    ),
                    {"records": list(records)},
                )
            ).first()
        if row is None:
            return None
        known = await self._mappings.find((), {row.meter})
        mapping = matching(known.meters.get(row.meter, ()), row.group_by)
        if mapping is None:
            return None
        found = billable_item(snapshot, mapping, snapshot.fetched_at)
        if (
            isinstance(found, Parked)
            or combination_of(found.aggregate_usage) is not Combination.SUM
        ):
            return None
        return found
