"""The SQL of the inbox: many deliveries in one statement, each answered for itself."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.db import text, transaction
from app.driver import Statement
from app.inbox.delivery import Delivery, Receipt

# Ordered by id, so that two replicas that store the same ids wait for each other in one order.
# Without that a burst of resends is a deadlock now and then, and a batch that is answered 503.
_INSERT = Statement(
    """
    insert into deliveries
        (svix_id, body, body_sha256, message_at, received_at, state, faults, settled_at)
    select svix_id, body, body_sha256, message_at, received_at,
           case when faults is null then 'received' else 'rejected' end,
           cast(faults as jsonb),
           case when faults is null then null else received_at end
    from unnest(
        cast(:svix_ids as text[]), cast(:bodies as bytea[]), cast(:digests as bytea[]),
        cast(:message_ats as timestamptz[]), cast(:received_ats as timestamptz[]),
        cast(:faults as text[])
    ) as given (svix_id, body, body_sha256, message_at, received_at, faults)
    order by svix_id
    on conflict (svix_id) do nothing
    returning svix_id
    """
)
_STANDING = text(
    """
    select svix_id, body_sha256, state from deliveries
    where svix_id = any(cast(:svix_ids as text[]))
    """
)
# Only the very body that was rejected: an id that stands for two contents is settled by people.
# `message_at` stays that of the first sight: a resend must not overtake a later correction.
_READMIT = text(
    """
    update deliveries
    set received_at = given.received_at, state = 'received', faults = null, settled_at = null
    from unnest(
        cast(:svix_ids as text[]), cast(:digests as bytea[]), cast(:received_ats as timestamptz[])
    ) as given (svix_id, body_sha256, received_at)
    where deliveries.svix_id = given.svix_id and deliveries.body_sha256 = given.body_sha256
        and deliveries.state = 'rejected'
    returning deliveries.svix_id
    """
)
_LOCK_REJECTED = text(
    """
    select 1 from deliveries
    where svix_id = any(cast(:svix_ids as text[])) and state = 'rejected'
    order by svix_id
    for update
    """
)


@dataclass(frozen=True, slots=True)
class Standing:
    """What the database holds under an id."""

    body_sha256: bytes
    state: str


def receipt_for(delivery: Delivery, standing: Standing) -> Receipt | None:
    """What a delivery whose id stands already is answered; None where it is to be readmitted."""
    if standing.body_sha256 != delivery.body_sha256:
        return Receipt.CONFLICT
    if standing.state != "rejected":
        return Receipt.DUPLICATE
    return None if delivery.faults is None else Receipt.REJECTED


Receipts = dict[str, Receipt | None]
"""By `svix_id`. None: the same body, rejected before and valid now, so `readmit` it."""


class DeliveryRepository:
    """Stores deliveries. Both ways commit, raise DatabaseUnavailable, and take each id once."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def store(self, deliveries: Sequence[Delivery]) -> Receipts:
        """Insert what is new; say of the rest what stands there."""
        async with transaction(self._engine) as connection:
            created = await _insert(connection, deliveries)
            receipts: Receipts = {
                delivery.svix_id: Receipt.ACCEPTED if delivery.faults is None else Receipt.REJECTED
                for delivery in deliveries
                if delivery.svix_id in created
            }
            known = [delivery for delivery in deliveries if delivery.svix_id not in created]
            return receipts | await _answer(connection, known)

    async def readmit(self, deliveries: Sequence[Delivery]) -> Receipts:
        """Turn rejected deliveries of the same bodies into received ones.

        A transaction of its own: one that inserts and then locks old rows could wait in a circle
        with another replica's.
        """
        async with transaction(self._engine) as connection:
            svix_ids = [delivery.svix_id for delivery in deliveries]
            await connection.execute(_LOCK_REJECTED, {"svix_ids": svix_ids})
            result = await connection.execute(
                _READMIT,
                {
                    "svix_ids": svix_ids,
                    "digests": [delivery.body_sha256 for delivery in deliveries],
                    "received_ats": [delivery.received_at for delivery in deliveries],
                },
            )
            readmitted = set(result.scalars())
            receipts: Receipts = dict.fromkeys(readmitted, Receipt.ACCEPTED)
            # Another replica was faster, or another body stands there.
            late = [delivery for delivery in deliveries if delivery.svix_id not in readmitted]
            return receipts | await _answer(connection, late)


async def _insert(connection: AsyncConnection, deliveries: Sequence[Delivery]) -> set[str]:
    created = await _INSERT.fetch(
        connection,
        {
            "svix_ids": [delivery.svix_id for delivery in deliveries],
            "bodies": [delivery.body for delivery in deliveries],
            "digests": [delivery.body_sha256 for delivery in deliveries],
            "message_ats": [delivery.message_at for delivery in deliveries],
            "received_ats": [delivery.received_at for delivery in deliveries],
            "faults": [_faults(delivery) for delivery in deliveries],
        },
    )
    return {row.svix_id for row in created}


async def _answer(connection: AsyncConnection, known: Sequence[Delivery]) -> Receipts:
    """What stands under ids that were not inserted.

    A statement of its own, after the insert: under READ COMMITTED it sees what was committed
    since. One statement for both would miss the row that another replica committed while this
    insert waited for it, and would find an id neither created nor there.
    """
    if not known:
        return {}
    rows = await connection.execute(
        _STANDING, {"svix_ids": [delivery.svix_id for delivery in known]}
    )
    standing = {row.svix_id: Standing(row.body_sha256, row.state) for row in rows}
    return {
        delivery.svix_id: receipt_for(delivery, standing[delivery.svix_id])
        for delivery in known
        if delivery.svix_id in standing
    }


def _faults(delivery: Delivery) -> str | None:
    if delivery.faults is None:
        return None
    return json.dumps([asdict(fault) for fault in delivery.faults])
