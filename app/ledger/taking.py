"""Taking: what a round of booking begins with, in one statement. SQL only.

It takes deliveries and tells what else waits. So a round asks for nothing that is not there: a
webhook that came alone cost as many statements to find that out as to be booked.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple

from sqlalchemy.ext.asyncio import AsyncConnection

from app.driver import Row, Statement
from app.ledger.deliveries import ClaimedDelivery, claimed
from app.ledger.windows import TO_BE_ASKED, TO_BOOK


class Waiting(NamedTuple):
    """What waited beside deliveries when a round began. Only hints: each is looked for again."""

    windows: bool = False  # pending, to be booked now
    releases: bool = False  # that somebody asked for
    moving: bool = False  # windows that a mapping change took off their records
    unasked: bool = False  # windows for an answer, where there is nobody to be asked
    late: bool = False  # records, to be carried or held

    @property
    def to_be_woken(self) -> bool:
        """Whether there is something that is not pending yet, and may be."""
        return self.releases or self.moving or self.unasked


NOTHING: Final = Waiting()


@dataclass(frozen=True, slots=True)
class Taken:
    """The mappings' version, the deliveries of a batch (`booked` from here on), and what waits."""

    version: int
    deliveries: list[ClaimedDelivery]
    waiting: Waiting


_LIMIT: Final = """
    (select case when :regardless or not (releases or moving or unasked) then :limit else 0 end
     from waiting)
"""
# Each of these stops at the first row; ordered as its index is, so that whatever the statistics say
# no table is read. The version is that of a statement that began under the mapping lock.
_TAKE: Final = Statement(
    f"""
    with waiting as materialized (
        select
            (select id from usage_windows where {TO_BOOK} and retry_at is null
             order by retry_at, id limit 1) is not null
            or (select id from usage_windows where {TO_BOOK} and retry_at <= :now
                order by retry_at, id limit 1) is not null as windows,
            exists (select 1 from window_releases) as releases,
            exists (select 1 from usage_windows
                    where moving_from is not null and usage_record_id is null) as moving,
            :nobody and exists (
                select 1 from usage_windows
                where state = 'pending' and reason in {TO_BE_ASKED}
                  and (retry_at is null or retry_at <= :now)) as unasked,
            (select id from usage_records where state = 'late' and due_at <= :now
             order by due_at, id limit 1) is not null as late),
    {claimed(_LIMIT)},
    taken as (
        update deliveries set state = 'booked', settled_at = :now, faults = null
        where id = any(array(select id from ordered where before < :total_bytes))
        returning id, svix_id, body, message_at)
    select w.*, v.version, t.* from waiting w cross join mapping_version v left join taken t on true
    """  # noqa: S608 - constants
)


async def take(
    connection: AsyncConnection,
    *,
    limit: int,
    total_bytes: int,
    only: int | None,
    regardless: bool,
    nobody: bool,
    now: datetime,
) -> Taken:
    """Take the oldest deliveries (or only one) that nobody else is booking, oldest first.

    None where something is to be woken first, unless `regardless`: what an operator released is
    what stood then, and no later word of a delivery. To be called under the mapping lock.
    `nobody`: OpenMeter's API cannot be asked.
    """
    rows = await _TAKE.fetch(
        connection,
        {
            "limit": limit,
            "only": only,
            "regardless": regardless,
            "total_bytes": total_bytes,
            "nobody": nobody,
            "now": now,
        },
    )
    first = rows[0]
    return Taken(
        first.version,
        _deliveries(rows),
        Waiting(first.windows, first.releases, first.moving, first.unasked, first.late),
    )


def _deliveries(rows: Sequence[Row]) -> list[ClaimedDelivery]:
    taken: Iterable[ClaimedDelivery] = (
        ClaimedDelivery(row.id, row.svix_id, row.body, row.message_at)
        for row in rows
        if row.id is not None
    )
    return sorted(taken, key=lambda delivery: delivery.id)
