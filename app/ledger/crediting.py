"""Crediting: what was billed too much in a closed period was given back by hand, and is settled.

Without it the debt would stand for ever, and be set off once more against whatever is carried
forward later: the customer would be credited twice.
"""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import text
from app.ledger import records as store
from app.ledger.carrying import CREDIT_DUE


@dataclass(frozen=True, slots=True)
class Credited:
    """A record that owes nothing any more. `quantity` in units, above zero."""

    id: int
    quantity: int


async def credit(connection: AsyncConnection, record_id: int, *, now: datetime) -> Credited | None:
    """Settle a record that is held as `credit_due`; None where there is no such record.

    The difference goes to nowhere, and is written down as such.
    """
    [subscription] = (
        await connection.scalars(
            text("select subscription from usage_records where id = :id"), {"id": record_id}
        )
    ).all() or [None]
    if subscription is None:
        return None
    await store.lock_lanes(connection, [subscription], due_at=None)
    [record] = await store.lock_records_by_id(connection, [record_id])
    owed = record.reported - record.wanted
    if record.state != "held" or record.reason != CREDIT_DUE or owed <= 0:
        return None
    await store.write_records(
        connection,
        [
            record._replace(
                wanted=record.reported,
                carried=record.carried + owed,
                state="reported",
                unsent_since=None,
            )
        ],
    )
    await connection.execute(
        text(
            """
            insert into carries (from_record_id, to_record_id, quantity, svix_id, carried_at)
            values (:id, null, :quantity, :svix_id, :now)
            """
        ),
        {"id": record_id, "quantity": Decimal(-owed), "svix_id": record.svix_id, "now": now},
    )
    return Credited(record_id, owed)
