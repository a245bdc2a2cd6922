"""Rewriting: changes of one item period on its records, and on others where these lack."""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from app.ledger import records as store
from app.ledger.periods import ItemPeriod
from app.ledger.placing import Placed, Rewritten, Standing, rewrite
from app.ledger.records import UsageRecord


async def rewrite_locked(
    connection: AsyncConnection,
    period: ItemPeriod,
    records: Iterable[UsageRecord],
    placed: Sequence[Placed],
    *,
    now: datetime,
    linger: timedelta,
    beside: Collection[Standing] = (),
) -> tuple[Rewritten, list[UsageRecord]]:
    """Book windows on the records of a locked period: what they come to, and all that were held.

    What would fall below zero is taken from the newest of the period's records that hold something.
    """
    held = {record.key: record for record in records}
    before = None
    while True:
        result = rewrite(period, held.values(), placed, now=now, linger=linger, beside=beside)
        if not result.missing:
            break
        more = await store.lock_period_records(connection, period.id, before=before)
        if not more:
            break
        before = more[-1].key.timestamp
        held = {record.key: record for record in more} | held
    return result, list(held.values())
