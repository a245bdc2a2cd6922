"""What the database knows of meters and prices before they are mapped to each other."""

from collections.abc import Collection
from typing import Any

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import text
from app.mapping.file import Mappings
from app.mapping.fitting import Seen
from app.mapping.models import SnapshotItem
from app.mapping.resolve import ENDED

# A window that was parked before there were series is found by the key of windows, backwards: one
# probe, where "the newest" would read all windows of the meter.
_AGGREGATIONS = text(
    """
    select asked.meter, nullif(coalesce(
        (select s.aggregation from usage_series s where s.meter = asked.meter
         order by s.newest_end desc limit 1),
        (select w.aggregation from usage_windows w where w.meter = asked.meter
         order by w.subject desc, w.group_key desc, w.window_start desc, w.window_end desc limit 1)
    ), 'UNKNOWN') as aggregation
    from unnest(cast(:meters as text[])) as asked (meter)
    """
)
# Of each price what was read last. Only of subscriptions that will pay: what is said of one that
# nobody pays by any more is never read again, and its lookup key may have gone to another price.
_PRICES = text(
    """
    select item ->> 'price_id' as price_id, item ->> 'lookup_key' as lookup_key,
           item -> 'price_metadata' as metadata, item ->> 'aggregate_usage' as aggregate_usage,
           max(s.fetched_at) as read
    from subscription_snapshots s, jsonb_array_elements(
        case jsonb_typeof(s.body -> 'items') when 'array' then s.body -> 'items' else '[]' end
    ) as item
    where s.found and s.body ->> 'status' <> all(cast(:ended as text[]))
      and item ->> 'usage_type' = 'metered' and item ->> 'billing_meter' is null
      and item ->> 'aggregate_usage' is not null
      and (s.subscription = any(cast(:subscriptions as text[])) or s.subscription in (
          select subscription from subject_mappings where subject <> all(cast(:subjects as text[]))
      ))
    group by 1, 2, 3, 4
    order by read
    """
)


async def what_was_seen(connection: AsyncConnection, wanted: Mappings) -> Seen:
    """The aggregations of the wanted meters, and the prices of the subscriptions that pay once
    the wanted subjects are mapped."""
    if not wanted.meters:
        return Seen({}, ())
    meters = await connection.execute(_AGGREGATIONS, {"meters": list(wanted.meters)})
    prices = await connection.execute(
        _PRICES,
        {
            "ended": sorted(ENDED),
            "subscriptions": _subscriptions(wanted),
            "subjects": list(wanted.subjects),
        },
    )
    newest = {row.price_id: _item(row) for row in prices}
    return Seen(
        {row.meter: row.aggregation for row in meters if row.aggregation is not None},
        tuple(item for _, item in sorted(newest.items())),
    )


def _subscriptions(wanted: Mappings) -> Collection[str]:
    return list({span.subscription for spans in wanted.subjects.values() for span in spans})


def _item(row: Row[Any]) -> SnapshotItem:
    """Any item with the price: which one, and its period, are of no interest here."""
    metadata = row.metadata if isinstance(row.metadata, dict) else {}
    return SnapshotItem(
        "",
        row.price_id,
        row.lookup_key,
        tuple(sorted(metadata.items())),
        usage_type="metered",
        aggregate_usage=row.aggregate_usage,
        billing_meter=None,
        billing_thresholds=False,
        period_start=row.read,
        period_end=row.read,
    )
