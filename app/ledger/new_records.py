"""Usage records that are new: each is written once, as it is to stand. SQL only."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import text
from app.ledger.records import RecordKey, UsageRecord


class PlaceMoved(Exception):
    """Another replica made the record, in another period, a moment ago: book the batch again."""


@dataclass(frozen=True, slots=True)
class NewRecord:
    """A record that is to be made, empty. `increment`: Stripe takes only increments for it."""

    key: RecordKey
    subscription: str
    item_period_id: int
    svix_id: str
    increment: bool = False


_IDS: Final = text(
    """
    select nextval(cast(pg_get_serial_sequence('usage_records', 'id') as regclass))
    from generate_series(1, :number)
    """
)


async def new_records(
    connection: AsyncConnection, missing: Iterable[NewRecord]
) -> dict[RecordKey, UsageRecord]:
    """Empty records, with ids, that are written when it is known what must stand on them."""
    ordered = sorted(missing, key=lambda new: new.key)
    if not ordered:
        return {}
    ids = sorted((await connection.execute(_IDS, {"number": len(ordered)})).scalars())
    return {
        new.key: UsageRecord(
            id_,
            new.key,
            new.item_period_id,
            wanted=0,
            reported=0,
            revision=0,
            svix_id=new.svix_id,
            state="reported",
            due_at=None,
            unsent_since=None,
            failures=0,
            key_suffix=0,
            unsettled=False,
            doubtful=False,
        )
        for id_, new in zip(ids, ordered, strict=True)
    }


# A record is written once, as it is to stand: made empty and then updated it cost twice the time.
_INSERT: Final = text(
    """
    insert into usage_records (id, item_period_id, subscription, subscription_item, timestamp,
                               wanted_quantity, carried_quantity, revision, svix_id, increment,
                               state, due_at, unsent_since)
    overriding system value
    select t.id, t.period, t.subscription, t.item, t.at, t.wanted, t.carried, t.revision,
           t.svix_id, t.increment, t.state, t.due_at, t.unsent_since
    from unnest(cast(:ids as bigint[]), cast(:periods as bigint[]), cast(:subscriptions as text[]),
                cast(:items as text[]), cast(:timestamps as bigint[]), cast(:wanted as numeric[]),
                cast(:carried as numeric[]), cast(:revisions as int[]), cast(:svix_ids as text[]),
                cast(:increments as boolean[]), cast(:states as text[]),
                cast(:due_ats as timestamptz[]), cast(:unsent as timestamptz[]))
        as t (id, period, subscription, item, at, wanted, carried, revision, svix_id, increment,
              state, due_at, unsent_since)
    order by t.item, t.at
    on conflict (subscription_item, timestamp) do nothing
    """
)


async def insert_records(
    connection: AsyncConnection, records: Sequence[tuple[NewRecord, UsageRecord]]
) -> None:
    """Write new records. Raises PlaceMoved."""
    if not records:
        return
    after = [record for _, record in records]
    inserted = await connection.execute(
        _INSERT,
        {
            "ids": [r.id for r in after],
            "periods": [r.item_period_id for r in after],
            "subscriptions": [new.subscription for new, _ in records],
            "items": [r.key.subscription_item for r in after],
            "timestamps": [r.key.timestamp for r in after],
            "wanted": [Decimal(r.wanted) for r in after],
            "carried": [Decimal(r.carried) for r in after],
            "revisions": [r.revision for r in after],
            "svix_ids": [r.svix_id for r in after],
            "increments": [new.increment for new, _ in records],
            "states": [r.state for r in after],
            "due_ats": [r.due_at for r in after],
            "unsent": [r.unsent_since for r in after],
        },
    )
    if inserted.rowcount != len(records):
        raise PlaceMoved
