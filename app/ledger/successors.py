"""The item that takes what another can take no more: itself, or what a plan change put there."""

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncEngine

from app.db import text, transaction
from app.mapping.aggregation import combination_of
from app.mapping.cached import CachedMappings
from app.mapping.models import Combination, MeterMapping, SnapshotItem, SubscriptionSnapshot
from app.mapping.resolution import Parked
from app.mapping.resolve import ENDED, billable_item
from app.mapping.splitting import matching

# What stands on a carry record came from others, and may have been carried to these, too.
_FIRST_WINDOW = text(
    """
    with recursive origins (record) as (
        select unnest(cast(:records as bigint[]))
        union
        select c.from_record_id from carries c join origins o on c.to_record_id = o.record)
    select w.meter, w.group_by from usage_windows w
    where w.usage_record_id in (select record from origins) order by w.id limit 1
    """
)


class Successors:
    """Finds by which mapping that is billed now what stands on some records."""

    def __init__(self, engine: AsyncEngine, mappings: CachedMappings) -> None:
        self._engine = engine
        self._mappings = mappings

    async def mapping(self, records: Sequence[int]) -> MeterMapping | None:
        """The mapping of the records' first window, of its meter and groups; None without one."""
        async with transaction(self._engine) as connection:
            window = (await connection.execute(_FIRST_WINDOW, {"records": list(records)})).first()
        if window is None:
            return None
        known = await self._mappings.find((), {window.meter})
        return matching(known.meters.get(window.meter, ()), window.group_by)


def successor(
    subscription_item: str, snapshot: SubscriptionSnapshot, mapping: MeterMapping | None
) -> SnapshotItem | None:
    """The item itself where it is still there, else the one that the meter is mapped to. Pure.

    None where there is none, or where its price does not add up what it is given.
    """
    if not snapshot.found or snapshot.status in ENDED:
        return None
    for item in snapshot.items:
        if item.id == subscription_item and _adds_up(item):
            return item
    if mapping is None:
        return None
    found = billable_item(snapshot, mapping, snapshot.fetched_at)
    return None if isinstance(found, Parked) or not _adds_up(found) else found


def _adds_up(item: SnapshotItem) -> bool:
    return (
        item.usage_type == "metered"
        and item.billing_meter is None
        and combination_of(item.aggregate_usage) is Combination.SUM
    )
