"""Item periods, lanes and usage records in the database, as booking needs them. SQL only.

The locks are taken in this order: item periods, lanes, records. A lane's lock keeps the
dispatcher from claiming or settling a record of that subscription while it is being rewritten.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.mapping.models import Rounding
from app.mapping.resolve import Target


class RecordKey(NamedTuple):
    """Where a usage record stands at Stripe."""

    subscription_item: str
    timestamp: int


class PeriodKey(NamedTuple):
    """An item's billing period; the start is exclusive."""

    subscription_item: str
    period_start: datetime


@dataclass(frozen=True, slots=True)
class RecordPlace:
    """A record that exists, and the period it counts in. Neither ever changes."""

    id: int
    key: RecordKey
    subscription: str
    item_period_id: int


@dataclass(frozen=True, slots=True)
class ItemPeriod:
    """A locked item period with its totals."""

    id: int
    exact: Fraction
    rounded: int
    rounding: Rounding


@dataclass(frozen=True, slots=True)
class UsageRecord:
    """A locked usage record."""

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


async def places(
    connection: AsyncConnection, ids: Collection[int], keys: Collection[RecordKey]
) -> list[RecordPlace]:
    """The records among `ids` and `keys` that exist. Needs no lock: a place never changes."""
    rows = await connection.execute(
        text(
            """
            select id, subscription, subscription_item, timestamp, item_period_id
            from usage_records where id = any(cast(:ids as bigint[]))
            union
            select r.id, r.subscription, r.subscription_item, r.timestamp, r.item_period_id
            from usage_records r
            join unnest(cast(:items as text[]), cast(:timestamps as bigint[]))
                as t (item, at) on r.subscription_item = t.item and r.timestamp = t.at
            """
        ),
        {
            "ids": list(ids),
            "items": [key.subscription_item for key in keys],
            "timestamps": [key.timestamp for key in keys],
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


async def open_periods(
    connection: AsyncConnection, targets: Iterable[Target]
) -> dict[PeriodKey, int]:
    """Make the targets' item periods where they are missing. Returns their ids."""
    wanted = {PeriodKey(t.subscription_item, t.period_start): t for t in targets}
    if not wanted:
        return {}
    keys = sorted(wanted)
    parameters = {
        "items": [key.subscription_item for key in keys],
        "starts": [key.period_start for key in keys],
        "ends": [wanted[key].period_end for key in keys],
        "subscriptions": [wanted[key].subscription for key in keys],
        "roundings": [wanted[key].rounding.value for key in keys],
    }
    await connection.execute(
        text(
            """
            insert into item_periods (subscription, subscription_item, period_start, period_end,
                                      rounding, exact_numerator, exact_denominator,
                                      rounded_total)
            select t.subscription, t.item, t.start, t.finish, t.rounding, 0, 1, 0
            from unnest(cast(:subscriptions as text[]), cast(:items as text[]),
                        cast(:starts as timestamptz[]), cast(:ends as timestamptz[]),
                        cast(:roundings as text[]))
                as t (subscription, item, start, finish, rounding)
            order by t.item, t.start
            on conflict (subscription_item, period_start) do nothing
            """
        ),
        parameters,
    )
    del parameters["ends"], parameters["subscriptions"], parameters["roundings"]
    rows = await connection.execute(
        text(
            """
            select p.id, p.subscription_item, p.period_start from item_periods p
            join unnest(cast(:items as text[]), cast(:starts as timestamptz[])) as t (item, start)
                on p.subscription_item = t.item and p.period_start = t.start
            """
        ),
        parameters,
    )
    return {PeriodKey(row.subscription_item, row.period_start): row.id for row in rows}


async def lock_periods(connection: AsyncConnection, ids: Collection[int]) -> dict[int, ItemPeriod]:
    """Lock item periods, always in the order of their ids."""
    rows = await connection.execute(
        text(
            """
            select id, exact_numerator, exact_denominator, rounded_total, rounding
            from item_periods
            where id = any(cast(:ids as bigint[])) order by id for update
            """
        ),
        {"ids": sorted(ids)},
    )
    return {
        row.id: ItemPeriod(
            row.id,
            Fraction(int(row.exact_numerator), int(row.exact_denominator)),
            int(row.rounded_total),
            Rounding(row.rounding),
        )
        for row in rows
    }


async def lock_lanes(
    connection: AsyncConnection, subscriptions: Collection[str], *, due_at: datetime
) -> None:
    """Lock the lanes of subscriptions and say that something falls due there."""
    await connection.execute(
        text(
            """
            insert into subscription_lanes as l (subscription, due_at)
            select t.subscription, cast(:due_at as timestamptz)
            from unnest(cast(:subscriptions as text[])) as t (subscription) order by 1
            on conflict (subscription) do update set due_at = least(l.due_at, excluded.due_at)
            """
        ),
        {"subscriptions": sorted(subscriptions), "due_at": due_at},
    )


async def add_records(
    connection: AsyncConnection, missing: Sequence[tuple[RecordKey, str, int, str]]
) -> None:
    """Make empty records: (key, subscription, item period, svix id)."""
    ordered = sorted(missing)
    await connection.execute(
        text(
            """
            insert into usage_records (item_period_id, subscription, subscription_item, timestamp,
                                       wanted_quantity, svix_id, state)
            select t.period, t.subscription, t.item, t.at, 0, t.svix_id, 'reported'
            from unnest(cast(:periods as bigint[]), cast(:subscriptions as text[]),
                        cast(:items as text[]), cast(:timestamps as bigint[]),
                        cast(:svix_ids as text[]))
                as t (period, subscription, item, at, svix_id)
            order by t.item, t.at
            on conflict (subscription_item, timestamp) do nothing
            """
        ),
        {
            "periods": [period for _, _, period, _ in ordered],
            "subscriptions": [subscription for _, subscription, _, _ in ordered],
            "items": [key.subscription_item for key, _, _, _ in ordered],
            "timestamps": [key.timestamp for key, _, _, _ in ordered],
            "svix_ids": [svix_id for _, _, _, svix_id in ordered],
        },
    )


_RECORD_COLUMNS = """
    r.id, r.subscription_item, r.timestamp, r.item_period_id, r.wanted_quantity,
    r.reported_quantity, r.revision, r.svix_id, r.state, r.due_at, r.unsent_since, r.failures,
    r.key_suffix, r.sent_key is not null as unsettled, r.doubtful
"""


async def lock_records(
    connection: AsyncConnection, keys: Collection[RecordKey]
) -> list[UsageRecord]:
    """Lock records by where they stand."""
    ordered = sorted(keys)
    rows = await connection.execute(
        text(
            f"""
            select {_RECORD_COLUMNS} from usage_records r
            join unnest(cast(:items as text[]), cast(:timestamps as bigint[])) as t (item, at)
                on r.subscription_item = t.item and r.timestamp = t.at
            order by r.id for update of r
            """  # noqa: S608 - the columns are a constant of this module
        ),
        {
            "items": [key.subscription_item for key in ordered],
            "timestamps": [key.timestamp for key in ordered],
        },
    )
    return [_record(row) for row in rows]


async def lock_period_records(connection: AsyncConnection, period: int) -> list[UsageRecord]:
    """Lock all records of an item's period that hold something."""
    rows = await connection.execute(
        text(
            f"""
            select {_RECORD_COLUMNS} from usage_records r
            where r.item_period_id = :period and r.wanted_quantity > 0 order by r.id for update
            """  # noqa: S608 - the columns are a constant of this module
        ),
        {"period": period},
    )
    return [_record(row) for row in rows]


def _record(row: Row[Any]) -> UsageRecord:
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
    )


async def write_periods(connection: AsyncConnection, periods: Sequence[ItemPeriod]) -> None:
    """Write the totals of locked item periods."""
    await connection.execute(
        text(
            """
            update item_periods p set exact_numerator = t.numerator,
                exact_denominator = t.denominator, rounded_total = t.rounded
            from unnest(cast(:id as bigint[]), cast(:numerator as numeric[]),
                        cast(:denominator as numeric[]), cast(:rounded as numeric[]))
                as t (id, numerator, denominator, rounded)
            where p.id = t.id
            """
        ),
        {
            "id": [p.id for p in periods],
            "numerator": [Decimal(p.exact.numerator) for p in periods],
            "denominator": [Decimal(p.exact.denominator) for p in periods],
            "rounded": [Decimal(p.rounded) for p in periods],
        },
    )


async def write_records(connection: AsyncConnection, records: Sequence[UsageRecord]) -> None:
    """Write locked records whose wanted quantity changed."""
    await connection.execute(
        text(
            """
            update usage_records r set wanted_quantity = t.wanted, revision = t.revision,
                svix_id = t.svix_id, state = t.state, due_at = t.due_at,
                unsent_since = t.unsent_since, failures = t.failures, key_suffix = t.key_suffix,
                reason = case when t.state = 'held' then r.reason end,
                detail = case when t.state = 'held' then r.detail end
            from unnest(cast(:id as bigint[]), cast(:wanted as numeric[]),
                        cast(:revision as int[]), cast(:svix_id as text[]),
                        cast(:state as text[]), cast(:due_at as timestamptz[]),
                        cast(:unsent_since as timestamptz[]), cast(:failures as int[]),
                        cast(:key_suffix as int[]))
                as t (id, wanted, revision, svix_id, state, due_at, unsent_since, failures,
                      key_suffix)
            where r.id = t.id
            """
        ),
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
        },
    )
