"""Lanes and usage records in the database, as booking needs them. SQL only.

The locks are taken in this order: item periods, lanes, records. A lane's lock keeps the
dispatcher from claiming or settling a record of that subscription while it is being rewritten.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, NamedTuple

from sqlalchemy import Row as AnyRow
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import text
from app.driver import Row, Statement
from app.ledger.columns import numbers, texts

# What one look takes into memory of an item period's records.
RECORDS_AT_ONCE: Final = 1_000


class RecordKey(NamedTuple):
    """Where a usage record stands at Stripe."""

    subscription_item: str
    timestamp: int


@dataclass(frozen=True, slots=True)
class RecordPlace:
    """A record that exists, and the period it counts in. Neither ever changes."""

    id: int
    key: RecordKey
    subscription: str
    item_period_id: int


class UsageRecord(NamedTuple):
    """A locked usage record.

    A tuple, as a batch makes thousands: to fill a frozen dataclass takes three times as long.
    """

    id: int
    key: RecordKey
    item_period_id: int
    wanted: int
    reported: int
    revision: int
    svix_id: str
    state: str
    due_at: datetime | None
    unsent_since: datetime | None
    failures: int
    key_suffix: int
    unsettled: bool  # the answer to a POST is outstanding
    doubtful: bool  # a POST whose key was given up may have been executed
    carried: int = 0  # of what is wanted: carried here, or (below zero) from here
    reason: str | None = None
    detail: str | None = None

    @property
    def booked(self) -> int:
        """What the record's windows come to."""
        return self.wanted - self.carried


_RECORD_COLUMNS = """
    r.id, r.subscription_item, r.timestamp, r.item_period_id, r.wanted_quantity,
    r.reported_quantity, r.revision, r.svix_id, r.state, r.due_at, r.unsent_since, r.failures,
    r.key_suffix, r.sent_key is not null as unsettled, r.doubtful, r.carried_quantity, r.reason,
    r.detail
"""


_PLACES: Final = Statement(
    """
    select id, subscription, subscription_item, timestamp, item_period_id
    from usage_records where id = any(cast(:ids as bigint[]))
    union
    select r.id, r.subscription, r.subscription_item, r.timestamp, r.item_period_id
    from usage_records r
    join unnest(cast(cast(:items as text) as text[]),
                cast(cast(:timestamps as text) as bigint[]))
        as t (item, at) on r.subscription_item = t.item and r.timestamp = t.at
    """
)


async def places(
    connection: AsyncConnection, ids: Collection[int], keys: Collection[RecordKey]
) -> list[RecordPlace]:
    """The records among `ids` and `keys` that exist. Needs no lock: a place never changes."""
    rows = await _PLACES.fetch(
        connection,
        {
            "ids": list(ids),
            "items": texts([key.subscription_item for key in keys]),
            "timestamps": numbers(key.timestamp for key in keys),
        },
    )
    return [
        RecordPlace(
            row.id,
            RecordKey(row.subscription_item, row.timestamp),
            row.subscription,
            row.item_period_id,
        )
        for row in rows
    ]


_LOCK_LANES: Final = Statement(
    """
    insert into subscription_lanes as l (subscription, due_at)
    select t.subscription, cast(:due_at as timestamptz)
    from unnest(cast(:subscriptions as text[])) as t (subscription) order by 1
    on conflict (subscription) do update set due_at = excluded.due_at
    -- A row for which this is false is locked as well, and not written.
    where excluded.due_at < l.due_at or (l.due_at is null and excluded.due_at is not null)
    """
)


async def lock_lanes(
    connection: AsyncConnection, subscriptions: Collection[str], *, due_at: datetime | None
) -> None:
    """Lock the lanes of subscriptions and say that something falls due there (None: nothing)."""
    await _LOCK_LANES.fetch(
        connection,
        {"subscriptions": sorted(subscriptions), "due_at": due_at},
    )


_LOCK: Final = Statement(
    f"""
    select {_RECORD_COLUMNS} from usage_records r
    join unnest(cast(cast(:items as text) as text[]),
                cast(cast(:timestamps as text) as bigint[])) as t (item, at)
        on r.subscription_item = t.item and r.timestamp = t.at
    order by r.id for update of r
    """  # noqa: S608 - the columns are a constant of this module
)


async def lock_records(
    connection: AsyncConnection, keys: Collection[RecordKey]
) -> list[UsageRecord]:
    """Lock records by where they stand."""
    ordered = sorted(keys)
    rows = await _LOCK.fetch(
        connection,
        {
            "items": texts([key.subscription_item for key in ordered]),
            "timestamps": numbers(key.timestamp for key in ordered),
        },
    )
    return [_record(row) for row in rows]


_LOCK_BY_ID: Final = Statement(
    f"""
    select {_RECORD_COLUMNS} from usage_records r
    where r.id = any(cast(:ids as bigint[])) order by r.id for update
    """  # noqa: S608 - the columns are a constant of this module
)


async def lock_records_by_id(
    connection: AsyncConnection, ids: Collection[int]
) -> list[UsageRecord]:
    """Lock records by their ids."""
    rows = await _LOCK_BY_ID.fetch(
        connection,
        {"ids": list(ids)},
    )
    return [_record(row) for row in rows]


async def make_late(
    connection: AsyncConnection, item_period_id: int, *, until: int, now: datetime
) -> None:
    """Nothing more is sent for a locked period up to a second; an answer owed is asked for."""
    await connection.execute(
        text(
            """
            update usage_records set state = 'late', due_at = :now
            where item_period_id = :period and timestamp <= :until and state = 'due'
              and sent_key is null
            """
        ),
        {"now": now, "period": item_period_id, "until": until},
    )


async def lock_period_records(
    connection: AsyncConnection, period: int, *, before: int | None = None
) -> list[UsageRecord]:
    """Lock the newest records of a locked item period that hold something, before a second.

    At most RECORDS_AT_ONCE: a period may have a million. The last one's second leads to the next.
    """
    rows = await connection.execute(
        text(
            f"""
            select {_RECORD_COLUMNS} from usage_records r
            where r.item_period_id = :period and r.wanted_quantity <> r.carried_quantity
              and (cast(:before as bigint) is null or r.timestamp < :before)
            order by r.timestamp desc limit :limit for update
            """  # noqa: S608 - the columns are a constant of this module
        ),
        {"period": period, "before": before, "limit": RECORDS_AT_ONCE},
    )
    return [_record(row) for row in rows]


def _record(row: AnyRow[Any] | Row) -> UsageRecord:
    return UsageRecord(
        row.id,
        RecordKey(row.subscription_item, row.timestamp),
        row.item_period_id,
        int(row.wanted_quantity),
        int(row.reported_quantity),
        row.revision,
        row.svix_id,
        row.state,
        row.due_at,
        row.unsent_since,
        row.failures,
        row.key_suffix,
        row.unsettled,
        row.doubtful,
        int(row.carried_quantity),
        row.reason,
        row.detail,
    )


_WRITE: Final = Statement(
    """
    update usage_records r set wanted_quantity = t.wanted, revision = t.revision,
        svix_id = t.svix_id, state = t.state, due_at = t.due_at,
        unsent_since = t.unsent_since, failures = t.failures, key_suffix = t.key_suffix,
        carried_quantity = t.carried,
        reason = case when t.state = 'held' then t.reason end,
        detail = case when t.state = 'held' then t.detail end
    from unnest(cast(:id as bigint[]), cast(:wanted as numeric[]),
                cast(:revision as int[]), cast(:svix_id as text[]),
                cast(:state as text[]), cast(:due_at as timestamptz[]),
                cast(:unsent_since as timestamptz[]), cast(:failures as int[]),
                cast(:key_suffix as int[]), cast(:carried as numeric[]),
                cast(:reason as text[]), cast(:detail as text[]))
        as t (id, wanted, revision, svix_id, state, due_at, unsent_since, failures,
              key_suffix, carried, reason, detail)
    where r.id = t.id
    """
)


async def write_records(connection: AsyncConnection, records: Sequence[UsageRecord]) -> None:
    """Write locked records whose wanted quantity or state changed."""
    await _WRITE.fetch(
        connection,
        {
            "id": [r.id for r in records],
            "wanted": [Decimal(r.wanted) for r in records],
            "revision": [r.revision for r in records],
            "svix_id": [r.svix_id for r in records],
            "state": [r.state for r in records],
            "due_at": [r.due_at for r in records],
            "unsent_since": [r.unsent_since for r in records],
            "failures": [r.failures for r in records],
            "key_suffix": [r.key_suffix for r in records],
            "carried": [Decimal(r.carried) for r in records],
            "reason": [r.reason for r in records],
            "detail": [r.detail for r in records],
        },
    )
