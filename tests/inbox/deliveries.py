"""Deliveries for the tests of the inbox, and a look at what is stored."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.errors import Fault
from app.inbox.delivery import Delivery

AT = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
FAULTS = (Fault("usage[0].value", "is missing"),)


def delivery(
    svix_id: str = "msg_1",
    body: bytes = b"{}",
    *,
    at: datetime = AT,
    faults: tuple[Fault, ...] | None = None,
) -> Delivery:
    return Delivery.of(svix_id, body, message_at=at, received_at=at, faults=faults)


@dataclass(frozen=True, slots=True)
class Stored:
    svix_id: str
    body: bytes
    state: str
    message_at: datetime
    faults: Any


async def stored(engine: AsyncEngine) -> list[Stored]:
    """Every delivery in the database, by id."""
    async with engine.connect() as connection:
        rows = await connection.execute(
            text("select svix_id, body, state, message_at, faults from deliveries order by svix_id")
        )
        return [Stored(*row) for row in rows]


async def set_state(engine: AsyncEngine, svix_id: str, state: str) -> None:
    async with engine.begin() as connection:
        await connection.execute(
            text("update deliveries set state = :state where svix_id = :svix_id"),
            {"state": state, "svix_id": svix_id},
        )
