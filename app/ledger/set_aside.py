"""Deliveries that wait for somebody: those answered 422, and those that could not be booked."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import text


@dataclass(frozen=True, slots=True)
class SetAsideDelivery:
    """`faults` are objects of `path` and `message`: what was wrong with the body, or the error."""

    id: int
    svix_id: str
    state: str
    received_at: datetime
    settled_at: datetime | None
    faults: list[dict[str, Any]]


# Both states are named, whatever is asked for: their index is partial.
_SET_ASIDE: Final = text(
    """
    select id, svix_id, state, received_at, settled_at, coalesce(faults, '[]') as faults
    from deliveries
    where state in ('rejected', 'failed') and id > :after
      and (cast(:state as text) is null or state = :state)
    order by id limit :limit
    """
)


async def deliveries_set_aside(
    connection: AsyncConnection, *, state: str | None, after: int, limit: int
) -> list[SetAsideDelivery]:
    """A page of them, by id: of one state, or (None) of both."""
    rows = await connection.execute(_SET_ASIDE, {"state": state, "after": after, "limit": limit})
    return [SetAsideDelivery(**row) for row in rows.mappings()]
