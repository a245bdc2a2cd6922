"""Usage windows in the database: claim, settle, wake. SQL only, in whole batches."""

import hashlib
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final, NamedTuple

from sqlalchemy import Row as AnyRow
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import text
from app.driver import Row, Statement
from app.ledger.quantity import NOTHING
from app.mapping.reasons import ACCEPTED, ParkReason
from app.mapping.releases import KEY_ORDER
from app.mapping.resolution import WindowFacts, WindowSource

AWAITING_SNAPSHOT = "awaiting_snapshot"
AWAITING_QUERY = "awaiting_query"
WOKEN_AT_ONCE = 2_000
# Whose value OpenMeter is asked for before they can be booked; the second one was released.
TO_BE_ASKED: Final = f"('{AWAITING_QUERY}', '{ParkReason.QUERY_UNANSWERED}')"

# What waits for its place, and was found to overlap nothing. It keeps one of these reasons all the
# while, and as long nothing that overlaps it is deleted: so it is none of what was.
ACCEPTED_REASONS: Final = frozenset({AWAITING_SNAPSHOT, *(str(reason) for reason in ACCEPTED)})

# A part may have the bounds of a window that some delivery told (an hourly report beside a daily
# one): it must not be taken for that, and is kept under a key of its own.
_PART_SALT: Final = hashlib.sha256(b"part:").digest()[:16]


def part_key(group_key: bytes) -> bytes:
    """The key of a series' parts from that of the series, and the other way round: 16 bytes."""
    return bytes(one ^ other for one, other in zip(group_key, _PART_SALT, strict=True))


class PendingWindow(NamedTuple):
    """A window that is to be booked in this transaction, and what of it is booked already.

    `group_key`: that of its series, of a part, too.

    A tuple, as a batch makes thousands: to fill a frozen dataclass takes three times as long.
    """

    id: int
    facts: WindowFacts
    group_key: bytes
    value: Decimal
    revision: int
    svix_id: str
    message_at: datetime
    usage_record_id: int | None
    amount: Fraction
    # The scale it was booked by, where it stands on a record.
    scale: Fraction | None = None
    # The revision that an operator let through although it takes much away.
    approved_revision: int | None = None
    # A mapping change took it off this record: it waits until that has come down at Stripe.
    moving_from: int | None = None
    # Its subscription was read for it a moment ago: whatever it says now, it is not read again.
    just_read: bool = False
    # It is in the ledger since before anything that overlaps it could be deleted.
    accepted: bool = False

    @property
    def leaving(self) -> bool:
        """Whether a mapping change takes it off the record that it still stands on."""
        return self.moving_from is not None and self.moving_from == self.usage_record_id


class SettledWindow(NamedTuple):
    """What became of a window: booked on a record, parked, or still pending until `retry_at`."""

    id: int
    state: str
    reason: str | None = None
    detail: str | None = None
    retry_at: datetime | None = None
    usage_record_id: int | None = None
    amount: Fraction = NOTHING
    scale: Fraction | None = None
    slipped: tuple[datetime, datetime] | None = None
    moving_from: int | None = None


def parked_beside(window: PendingWindow, reason: ParkReason, detail: str) -> SettledWindow:
    """A window parked, while what was booked of it before (if anything was) stays."""
    kept = window.usage_record_id is not None
    return SettledWindow(
        window.id,
        "parked",
        reason,
        f"{detail}; what was booked of this window before stays" if kept else detail,
        usage_record_id=window.usage_record_id,
        amount=window.amount,
        scale=window.scale,
        moving_from=window.moving_from if kept else None,
    )


WINDOW_COLUMNS = """
    id, meter, subject, group_key, group_by, window_start, window_end, aggregation,
    subject_contradicts, source, record_at, value, revision, svix_id, message_at, state, reason,
    retry_at, usage_record_id, amount_numerator, amount_denominator, scale_numerator,
    scale_denominator, approved_revision, moving_from
"""


TO_BOOK: Final = f"state = 'pending' and (reason is null or reason not in {TO_BE_ASKED})"
# Two walks along one index, each with an end of its own: a million windows that wait for later are
# not looked at. With an `or` in their place the planner reads all of them; ordered by the id alone
# it walks the primary key, 2.4 s at a million. What is returned is locked once more, so that it is
# what stands now.
_CLAIM: Final = Statement(
    f"""
    with soon as (
        select id from usage_windows where {TO_BOOK} and retry_at is null
        order by retry_at, id limit :limit for update skip locked),
    later as (
        select id from usage_windows where {TO_BOOK} and retry_at <= :now
        order by retry_at, id limit greatest(:limit - (select count(*) from soon), 0)
        for update skip locked)
    select {WINDOW_COLUMNS} from usage_windows
    where id = any(array(select id from soon union all select id from later))
      and {TO_BOOK} and (retry_at is null or retry_at <= :now)
    order by id for update
    """  # noqa: S608 - constants of this module
)
_CLAIM_ONLY: Final = Statement(
    f"""
    select {WINDOW_COLUMNS} from usage_windows
    where id = any(cast(:only as bigint[])) and {TO_BOOK}
      and (retry_at is null or retry_at <= :now)
    order by id for update skip locked
    """  # noqa: S608 - constants of this module
)


async def claim_pending(
    connection: AsyncConnection, *, now: datetime, limit: int, only: Sequence[int] | None = None
) -> list[PendingWindow]:
    """Lock windows that were released or waited for a snapshot, and that nobody else is booking."""
    if limit == 0:
        return []
    rows = (
        await _CLAIM.fetch(connection, {"now": now, "limit": limit})
        if only is None
        else await _CLAIM_ONLY.fetch(connection, {"now": now, "only": list(only)})
    )
    return [
        pending_window(row, just_read=row.reason == AWAITING_SNAPSHOT and row.retry_at is None)
        for row in rows
    ]


async def set_aside(
    connection: AsyncConnection, ids: Sequence[int], *, reason: str, detail: str
) -> None:
    """Park windows without a look at them; what of them is booked stays booked."""
    await connection.execute(
        text(
            """
            update usage_windows
            set state = 'parked', reason = :reason, detail = :detail, retry_at = null
            where id = any(cast(:ids as bigint[])) and state = 'pending'
            """
        ),
        {"ids": list(ids), "reason": reason, "detail": detail},
    )


async def lock_booked(
    connection: AsyncConnection, usage_record_ids: Sequence[int], *, limit: int
) -> list[PendingWindow]:
    """Lock windows that are booked on some records: those of the first record first."""
    rows = await connection.execute(
        text(
            f"""
            select {WINDOW_COLUMNS} from usage_windows
            where id in (
                select w.id from unnest(cast(:records as bigint[])) with ordinality as r (id, place)
                join usage_windows w on w.usage_record_id = r.id and w.state = 'booked'
                order by r.place limit :limit)
              and usage_record_id = any(cast(:records as bigint[])) and state = 'booked'
            {KEY_ORDER} for update
            """  # noqa: S608 - the columns are a constant of this module
        ),
        {"records": list(usage_record_ids), "limit": limit},
    )
    return [pending_window(row) for row in rows]


def pending_window(row: AnyRow[Any] | Row, *, just_read: bool = False) -> PendingWindow:
    """A row of `WINDOW_COLUMNS` as a pending window."""
    source = WindowSource(row.source)
    return PendingWindow(
        row.id,
        WindowFacts(
            row.meter,
            row.subject,
            row.aggregation,
            row.window_start,
            row.window_end,
            row.subject_contradicts,
            tuple(sorted(row.group_by.items())),
            source,
            row.record_at,
        ),
        part_key(row.group_key) if source is WindowSource.PART else row.group_key,
        row.value,
        row.revision,
        row.svix_id,
        row.message_at,
        row.usage_record_id,
        Fraction(int(row.amount_numerator), int(row.amount_denominator)),
        None
        if row.scale_numerator is None
        else Fraction(int(row.scale_numerator), int(row.scale_denominator)),
        row.approved_revision,
        row.moving_from,
        just_read,
        row.reason in ACCEPTED_REASONS,
    )


_SETTLE: Final = Statement(
    """
    update usage_windows w set
        state = t.state, reason = t.reason, detail = t.detail, retry_at = t.retry_at,
        usage_record_id = t.usage_record_id,
        amount_numerator = t.numerator, amount_denominator = t.denominator,
        scale_numerator = t.scale_numerator, scale_denominator = t.scale_denominator,
        slipped_from = case when t.usage_record_id is not null
                            then coalesce(t.slipped_from, w.slipped_from) end,
        slipped_to = case when t.usage_record_id is not null
                          then coalesce(t.slipped_to, w.slipped_to) end,
        moving_from = t.moving_from,
        booked_at = case when t.state in ('booked', 'covered')
                         then cast(:now as timestamptz) end
    from unnest(
        cast(:id as bigint[]), cast(:state as text[]), cast(:reason as text[]),
        cast(:detail as text[]), cast(:retry_at as timestamptz[]),
        cast(:usage_record_id as bigint[]), cast(:numerator as numeric[]),
        cast(:denominator as numeric[]), cast(:scale_numerator as numeric[]),
        cast(:scale_denominator as numeric[]), cast(:slipped_from as timestamptz[]),
        cast(:slipped_to as timestamptz[]), cast(:moving_from as bigint[])
    ) as t (id, state, reason, detail, retry_at, usage_record_id, numerator, denominator,
            scale_numerator, scale_denominator, slipped_from, slipped_to, moving_from)
    where w.id = t.id
    """
)


async def settle_windows(
    connection: AsyncConnection, settled: Sequence[SettledWindow], *, now: datetime
) -> None:
    """Write down what became of windows that this transaction has locked."""
    if not settled:
        return
    await _SETTLE.fetch(
        connection,
        {
            "now": now,
            "id": [w.id for w in settled],
            "state": [w.state for w in settled],
            "reason": [w.reason for w in settled],
            "detail": [w.detail for w in settled],
            "retry_at": [w.retry_at for w in settled],
            "usage_record_id": [w.usage_record_id for w in settled],
            "numerator": [Decimal(w.amount.numerator) for w in settled],
            "denominator": [Decimal(w.amount.denominator) for w in settled],
            "scale_numerator": [w.scale and Decimal(w.scale.numerator) for w in settled],
            "scale_denominator": [w.scale and Decimal(w.scale.denominator) for w in settled],
            "slipped_from": [w.slipped and w.slipped[0] for w in settled],
            "slipped_to": [w.slipped and w.slipped[1] for w in settled],
            "moving_from": [w.moving_from for w in settled],
        },
    )


async def wake_parked(connection: AsyncConnection, *, now: datetime, limit: int) -> int:
    """Release parked windows whose time for another look has come."""
    result = await connection.execute(
        text(
            """
            update usage_windows set state = 'pending', retry_at = null where id in (
                select id from usage_windows
                where state = 'parked' and retry_at is not null and retry_at <= :now
                order by retry_at limit :limit for update skip locked)
            """
        ),
        {"now": now, "limit": limit},
    )
    return result.rowcount


async def snapshot_arrived(
    connection: AsyncConnection, subscription: str, *, retry_at: datetime | None
) -> bool:
    """Book at once (None) or later what waits for a subscription's snapshot; whether that is all.

    WOKEN_AT_ONCE at most: in one statement a million windows would run into its timeout.
    """
    result = await connection.execute(
        text(
            f"""
            update usage_windows set retry_at = :retry_at where id in (
                select id from usage_windows where id in (
                    select id from usage_windows
                    where state = 'pending' and reason = '{AWAITING_SNAPSHOT}'
                      and detail = :subscription
                      and retry_at is distinct from cast(:retry_at as timestamptz)
                    limit :limit)
                {KEY_ORDER} for update)
              and state = 'pending' and reason = '{AWAITING_SNAPSHOT}'
            """  # noqa: S608 - constants of this module
        ),
        {"retry_at": retry_at, "subscription": subscription, "limit": WOKEN_AT_ONCE},
    )
    return result.rowcount < WOKEN_AT_ONCE
