"""Claiming due records: which POST is to leave for each, and what must not leave. SQL in batches.

What a claim writes on each record (action, key and quantity of the POST that is about to leave)
lets whoever comes next settle it before anything newer. A `set` is repeated with the same key and
quantity, so a lost answer is asked for again and never doubled. An `increment` is protected by its
key for 24 hours only: one whose answer was not written down is held, and never sent again.
"""

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

import asyncpg
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import text
from app.dispatch.keys import idempotency_key
from app.dispatch.reasons import HoldReason
from app.dispatch.records import ClaimedRecord
from app.driver import fetch

logger = logging.getLogger(__name__)

RECORDS_PER_LANE = 5
# The worker that claimed it may still be waiting for Stripe: STRIPE_TIMEOUT is at most two minutes.
LOST_ANSWER_PATIENCE = timedelta(seconds=180)


class DueRecord(NamedTuple):
    """A due record as it stands; `sent_*` is the POST whose answer was not written down."""

    id: int
    subscription: str
    subscription_item: str
    timestamp: int
    svix_id: str
    revision: int
    wanted: int
    reported: int
    increment: bool
    doubtful: bool
    sent_key: str | None
    sent_quantity: int
    sent_increment: bool
    key_suffix: int
    failures: int
    failed_at: datetime | None
    sent_at: datetime | None = None


class Withheld(NamedTuple):
    """A due record for which nothing leaves: held, or without `reason` already as it should be."""

    id: int
    reason: HoldReason | None = None
    detail: str | None = None


def what_leaves(due: DueRecord) -> ClaimedRecord | Withheld:
    """The POST of a due record, if there is one. Pure."""
    if due.sent_key is not None:
        if due.sent_increment:
            return Withheld(
                due.id,
                HoldReason.IN_DOUBT,
                f"an increment of {due.sent_quantity} was about to be sent, or was, and no answer "
                "was written down",
            )
        return _claimed(due, due.sent_key, due.sent_quantity, outstanding=True)
    if not due.increment:
        return _claimed(due, _key(due, due.wanted), due.wanted)
    if due.doubtful:
        return Withheld(
            due.id,
            HoldReason.OUTCOME_IN_DOUBT,
            f"a `set` that may have counted went before: Stripe may not hold {due.reported}",
        )
    difference = due.wanted - due.reported
    if difference == 0:
        return Withheld(due.id)
    if difference < 0:
        return Withheld(
            due.id,
            HoldReason.NEGATIVE_INCREMENT,
            f"{-difference} units too many: Stripe holds {due.reported}, {due.wanted} are owed",
        )
    return _claimed(due, _key(due, difference), difference)


def _key(due: DueRecord, quantity: int) -> str:
    return idempotency_key(
        due.svix_id,
        due.subscription_item,
        due.timestamp,
        due.revision,
        quantity,
        due.key_suffix,
        increment=due.increment,
    )


def _claimed(
    due: DueRecord, key: str, quantity: int, *, outstanding: bool = False
) -> ClaimedRecord:
    return ClaimedRecord(
        due.id,
        due.subscription,
        due.subscription_item,
        due.timestamp,
        key,
        quantity,
        due.key_suffix,
        due.failures,
        due.failed_at,
        action="set" if outstanding or not due.increment else "increment",
        reported=due.reported,
        outstanding=outstanding,
        left_at=due.sent_at if outstanding else None,
    )


_DUE = """
    select r.id, r.subscription, r.subscription_item, r.timestamp, r.svix_id, r.revision,
           -- A quantity is whole, and may be any: a bigint is not enough, a decimal takes longest.
           trunc(r.wanted_quantity)::text, trunc(r.reported_quantity)::text,
           r.increment, r.doubtful,
           r.sent_key, coalesce(trunc(r.sent_quantity), 0)::text,
           coalesce(r.sent_action = 'increment', false),
           r.key_suffix, r.failures, r.failed_at, r.sent_at
    from unnest(cast($1 as text[])) as lane (subscription)
    cross join lateral (
        select * from usage_records
        where subscription = lane.subscription and state = 'due' and due_at <= $2
        order by due_at, id limit $3
    ) as r
    -- Of a turn, first what may have left already: no index has it in front of the backlog.
    order by r.subscription, r.sent_key is null, r.due_at, r.id
"""


async def claim_records(
    connection: AsyncConnection, subscriptions: Collection[str], *, now: datetime, per_lane: int
) -> list[ClaimedRecord]:
    """The due records of leased lanes; writes down which POST is about to leave for each.

    What must not leave is held (or, with nothing left to send, reported) and not returned.
    """
    rows = await fetch(connection, _DUE, list(subscriptions), now, per_lane)
    found = [what_leaves(due) for due in _few_increments([_due(row) for row in rows])]
    claimed = [entry for entry in found if isinstance(entry, ClaimedRecord)]
    withheld = [entry for entry in found if isinstance(entry, Withheld)]
    if claimed:
        await _write_claims(connection, claimed, now)
    if withheld:
        await _withhold(connection, withheld, now)
    return claimed


def _few_increments(due: Iterable[DueRecord]) -> Iterator[DueRecord]:
    """The records of a turn without those increments that are too many of a lane.

    After a kill each that was claimed is in doubt, and the totals that settle them tell apart only
    so many. The rest is left as it is, for the next turn.
    """
    increments: Counter[str] = Counter()
    for record in due:
        increments[record.subscription] += record.increment
        if not record.increment or increments[record.subscription] <= RECORDS_PER_LANE:
            yield record


_QUANTITIES = tuple(map(DueRecord._fields.index, ("wanted", "reported", "sent_quantity")))


def _due(row: asyncpg.Record) -> DueRecord:
    """The columns of `_DUE` are the fields, in their order; quantities are digits."""
    fields = list(row)
    for at in _QUANTITIES:
        fields[at] = int(fields[at])
    return DueRecord._make(fields)


_CLAIM = """
    update usage_records r set sent_key = t.key, sent_quantity = cast(t.quantity as numeric),
        sent_action = t.action,
        -- Of what may have left before: that tells for how long Stripe has known the key.
        sent_at = case when r.sent_key = t.key then r.sent_at else $5 end
    from unnest(cast($1 as bigint[]), cast($2 as text[]), cast($3 as text[]), cast($4 as text[]))
        as t (id, key, quantity, action)
    where r.id = t.id
"""


async def _write_claims(
    connection: AsyncConnection, claimed: Sequence[ClaimedRecord], now: datetime
) -> None:
    await fetch(
        connection,
        _CLAIM,
        [record.id for record in claimed],
        [record.key for record in claimed],
        [str(record.quantity) for record in claimed],
        [record.action for record in claimed],
        now,
    )


async def _withhold(
    connection: AsyncConnection, withheld: Sequence[Withheld], now: datetime
) -> None:
    for entry in withheld:
        if entry.reason is not None:
            logger.warning("usage record %d is held: %s (%s)", entry.id, entry.reason, entry.detail)
    await connection.execute(
        text(
            """
            update usage_records r set
                state = case when t.reason is null then 'reported' else 'held' end,
                reason = t.reason, detail = t.detail, due_at = null,
                unsent_since = case when t.reason is null then null else r.unsent_since end,
                compare_at = case when t.reason = :in_doubt
                                  then cast(:compare_at as timestamptz) end,
                comparisons = 0
            from unnest(cast(:ids as bigint[]), cast(:reasons as text[]), cast(:details as text[]))
                as t (id, reason, detail)
            where r.id = t.id
            """
        ),
        {
            "in_doubt": HoldReason.IN_DOUBT.value,
            "compare_at": now + LOST_ANSWER_PATIENCE,
            "ids": [entry.id for entry in withheld],
            "reasons": [entry.reason.value if entry.reason else None for entry in withheld],
            "details": [entry.detail for entry in withheld],
        },
    )


async def withdraw_claims(connection: AsyncConnection, records: Sequence[ClaimedRecord]) -> None:
    """Take back the claims of records for which nothing left, in a lane that is still ours.

    What was outstanding before the claim stays so.
    """
    ids = [record.id for record in records if not record.outstanding]
    if ids:
        await connection.execute(
            text(
                """
                update usage_records set sent_key = null, sent_quantity = null, sent_at = null,
                    sent_action = null
                where id = any(cast(:ids as bigint[]))
                """
            ),
            {"ids": ids},
        )
