"""Deliveries in the database as booking needs them: claimed, set aside. SQL only."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import text


@dataclass(frozen=True, slots=True)
class ClaimedDelivery:
    """A delivery that is to be booked in this transaction."""

    id: int
    svix_id: str
    body: bytes
    message_at: datetime


def claimed(limit: str) -> str:
    """The oldest deliveries (or only one) that nobody else is booking, as `claimed` and `ordered`.

    The last of them is the one whose body brings them to `total_bytes` or more: as long as what is
    `before` a delivery is less. `limit` is SQL.
    """
    return f"""
        claimed as (
            select id, octet_length(body) as size from deliveries
            where state = 'received' and id = coalesce(cast(:only as bigint), id)
            order by id limit {limit} for update skip locked),
        ordered as (select id, sum(size) over (order by id) - size as before from claimed)
    """  # noqa: S608 - of constants


_WAITING: Final = text(
    f"""
    with {claimed(":limit")} select id from ordered where before < :total_bytes order by id
    """  # noqa: S608 - of constants
)


async def waiting_deliveries(
    connection: AsyncConnection, limit: int, *, total_bytes: int, only: int | None = None
) -> list[int]:
    """Lock the oldest deliveries (or only one) that nobody else is booking; their ids."""
    named = {"limit": limit, "only": only, "total_bytes": total_bytes}
    return list((await connection.execute(_WAITING, named)).scalars())


_FAIL: Final = text(
    """
    update deliveries set state = 'failed', settled_at = :now, faults = cast(:faults as jsonb)
    where id = any(cast(:ids as bigint[]))
    """
)


async def fail_deliveries(
    connection: AsyncConnection, ids: Sequence[int], *, fault: str, now: datetime
) -> None:
    """Set claimed deliveries aside: shown, and released by an operator."""
    faults = json.dumps([{"path": "", "message": fault}])
    await connection.execute(_FAIL, {"ids": list(ids), "now": now, "faults": faults})
