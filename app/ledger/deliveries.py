"""Deliveries in the database as booking needs them: claim, settle. SQL only, in whole batches."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import text


@dataclass(frozen=True, slots=True)
class ClaimedDelivery:
    """A delivery that is to be booked in this transaction."""

    id: int
    svix_id: str
    body: bytes
    message_at: datetime


async def claim_deliveries(
    connection: AsyncConnection, limit: int, *, total_bytes: int, only: int | None = None
) -> list[ClaimedDelivery]:
    """Lock the oldest deliveries (or only one) that nobody else is booking.

    The last of them is the one whose body brings them to `total_bytes` or more.
    """
    rows = await connection.execute(
        text(
            """
            with claimed as (
                select id, octet_length(body) as size from deliveries
                where state = 'received' and id = coalesce(cast(:only as bigint), id)
                order by id limit :limit for update skip locked ),
            ordered as (select id, sum(size) over (order by id) - size as before from claimed)
            select id, svix_id, body, message_at from ordered join deliveries using (id)
            where before < :total_bytes order by id
            """
        ),
        {"limit": limit, "only": only, "total_bytes": total_bytes},
    )
    return [ClaimedDelivery(row.id, row.svix_id, row.body, row.message_at) for row in rows]


async def settle_deliveries(
    connection: AsyncConnection,
    ids: Sequence[int],
    *,
    state: str,
    now: datetime,
    faults: Sequence[Mapping[str, str]] | None = None,
) -> None:
    """Mark deliveries as booked, rejected or failed."""
    await connection.execute(
        text(
            """
            update deliveries set state = :state, settled_at = :now, faults = cast(:faults as jsonb)
            where id = any(cast(:ids as bigint[]))
            """
        ),
        {
            "ids": list(ids),
            "state": state,
            "now": now,
            "faults": None if faults is None else json.dumps(list(faults)),
        },
    )
