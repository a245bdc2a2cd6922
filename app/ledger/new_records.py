"""Usage records that are new: each is written once, as it is to stand. SQL only."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from sqlalchemy.ext.asyncio import AsyncConnection

from app.driver import Statement
from app.ledger.columns import column, numbers, texts
from app.ledger.records import RecordKey, UsageRecord

# The id of a record that has none yet: the database gives it.
UNWRITTEN: Final = 0


class PlaceMoved(Exception):
    """Another replica made the record, in another period, a moment ago: book the batch again."""


class NewRecord(NamedTuple):
    """A record that is to be made, empty. `increment`: Stripe takes only increments for it."""

    key: RecordKey
    subscription: str
    item_period_id: int
    svix_id: str
    increment: bool = False


def empty_record(new: NewRecord) -> UsageRecord:
    """A record without an id, before it is known what must stand on it."""
    return UsageRecord(
        UNWRITTEN,
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


# A record is written once, as it is to stand: made empty and then updated it cost twice the time.
_INSERT: Final = Statement(
    """
    insert into usage_records (item_period_id, subscription, subscription_item, timestamp,
                               wanted_quantity, carried_quantity, revision, svix_id, increment,
                               state, due_at, unsent_since)
    select t.period, t.subscription, t.item, t.at, t.wanted,
           cast(coalesce(t.carried, :every_carried) as numeric),
           coalesce(t.revision, :every_revision), t.svix_id,
           coalesce(t.increment, :every_increment), coalesce(t.state, :every_state),
           coalesce(t.due_at, :every_due_at), coalesce(t.unsent, :every_unsent)
    from unnest(cast(cast(:periods as text) as bigint[]),
                cast(cast(:subscriptions as text) as text[]),
                cast(cast(:items as text) as text[]), cast(cast(:timestamps as text) as bigint[]),
                cast(cast(:wanted as text) as numeric[]), cast(:carried as text[]),
                cast(:revision as int[]), cast(cast(:svix_ids as text) as text[]),
                cast(:increment as boolean[]), cast(:state as text[]),
                cast(:due_at as timestamptz[]), cast(:unsent as timestamptz[]))
        as t (period, subscription, item, at, wanted, carried, revision, svix_id, increment,
              state, due_at, unsent)
    order by t.item, t.at
    on conflict (subscription_item, timestamp) do nothing
    returning id, subscription_item, timestamp
    """
)


async def insert_records(
    connection: AsyncConnection, records: Sequence[tuple[NewRecord, UsageRecord]]
) -> dict[RecordKey, int]:
    """Write new records; their ids. Raises PlaceMoved."""
    if not records:
        return {}
    after = [record for _, record in records]
    inserted = await _INSERT.fetch(
        connection,
        {
            "periods": numbers(r.item_period_id for r in after),
            "subscriptions": texts([new.subscription for new, _ in records]),
            "items": texts([r.key.subscription_item for r in after]),
            "timestamps": numbers(r.key.timestamp for r in after),
            "wanted": numbers(r.wanted for r in after),
            **column("carried", [str(r.carried) for r in after]),
            **column("revision", [r.revision for r in after]),
            "svix_ids": texts([r.svix_id for r in after]),
            **column("increment", [new.increment for new, _ in records]),
            **column("state", [r.state for r in after]),
            **column("due_at", [r.due_at for r in after]),
            **column("unsent", [r.unsent_since for r in after]),
        },
    )
    ids = {RecordKey(item, timestamp): id_ for id_, item, timestamp in inserted}
    if len(ids) != len(records):
        raise PlaceMoved
    return ids
