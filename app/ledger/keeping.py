"""Keeping: windows as deliveries tell them -> the database. SQL only, in whole batches.

lock their series                       nobody else keeps or books a window of these
insert what is new                      all that a window costs that comes once
lock what was there, and compare        newer revises, older is history, the same is nothing
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.ledger.deliveries import ClaimedDelivery
from app.ledger.history import Replayed, Revision, Verdict, replay, write_history
from app.ledger.series import SeriesKey, SeriesWindow, lock_series
from app.ledger.windows import TO_BE_ASKED, WINDOW_COLUMNS, PendingWindow, pending_window
from app.mapping.releases import KEY_ORDER
from app.mapping.resolution import WindowSource


class WindowKey(NamedTuple):
    """What makes a usage window one fact."""

    meter: str
    subject: str
    group_key: bytes
    window_start: datetime
    window_end: datetime


@dataclass(frozen=True, slots=True)
class IncomingWindow:
    """One window as a delivery tells it."""

    key: WindowKey
    group_by: str  # JSON
    aggregation: str
    value: Decimal
    subject_contradicts: bool
    delivery: ClaimedDelivery

    @property
    def revision(self) -> Revision:
        """What it says of the window."""
        return Revision(
            self.value,
            self.aggregation,
            WindowSource.WEBHOOK,
            self.delivery.id,
            self.delivery.svix_id,
            self.delivery.message_at,
        )


@dataclass(frozen=True, slots=True)
class Kept:
    """Windows that are to be booked, and how many arrivals were older than what stands.

    `series` are locked by this transaction.
    """

    pending: list[PendingWindow]
    older: int
    series: frozenset[SeriesKey] = frozenset()


def group_key(group_by: Mapping[str, str], *, contradicts: bool) -> tuple[bytes, str]:
    """A digest for the unique key, and the JSON it stands for.

    A row whose subject contradicts its query is a fact of its own: it never revises a sound one.
    """
    written = json.dumps(dict(sorted(group_by.items())), ensure_ascii=False, separators=(",", ":"))
    salt = b"contradicts:" if contradicts else b""
    return hashlib.sha256(salt + written.encode()).digest()[:16], written


# Whoever inserts waits for whoever inserts the same window, in the order of their key; what is
# there already is locked afterwards, in the same order: so nobody waits in a circle.
_INSERT = text(
    f"""
    insert into usage_windows (
        meter, subject, group_key, window_start, window_end, group_by, aggregation, value,
        subject_contradicts, revision, delivery_id, svix_id, message_at, state)
    select meter, subject, group_key, window_start, window_end, cast(group_by as jsonb),
           aggregation, value, contradicts, revision, delivery_id, svix_id, message_at, 'pending'
    from unnest(
        cast(:meter as text[]), cast(:subject as text[]), cast(:group_key as bytea[]),
        cast(:window_start as timestamptz[]), cast(:window_end as timestamptz[]),
        cast(:group_by as text[]), cast(:aggregation as text[]), cast(:value as numeric[]),
        cast(:contradicts as boolean[]), cast(:revision as integer[]),
        cast(:delivery_id as bigint[]), cast(:svix_id as text[]), cast(:message_at as timestamptz[])
    ) as t (meter, subject, group_key, window_start, window_end, group_by, aggregation, value,
            contradicts, revision, delivery_id, svix_id, message_at)
    {KEY_ORDER}
    on conflict (meter, subject, group_key, window_start, window_end) do nothing
    returning {WINDOW_COLUMNS}
    """  # noqa: S608 - the columns are a constant
)

_LOCK = text(
    f"""
    select id, meter, subject, group_key, window_start, window_end, value, aggregation, source,
           delivery_id, svix_id, message_at
    from usage_windows
    where (meter, subject, group_key, window_start, window_end) in (
        select * from unnest(
            cast(:meter as text[]), cast(:subject as text[]), cast(:group_key as bytea[]),
            cast(:window_start as timestamptz[]), cast(:window_end as timestamptz[])))
    {KEY_ORDER} for update
    """  # noqa: S608 - the order is a constant
)

_REVISE = text(
    f"""
    update usage_windows set
        value = new_value,
        aggregation = new_aggregation,
        source = new_source,
        delivery_id = new_delivery_id,
        svix_id = new_svix_id,
        message_at = new_message_at,
        revision = revision + changes,
        state = case when differs then 'pending' else state end,
        reason = case when differs and reason in {TO_BE_ASKED} then null else reason end,
        retry_at = case when differs then null else retry_at end
    from unnest(
        cast(:window_id as bigint[]), cast(:value as numeric[]), cast(:aggregation as text[]),
        cast(:source as text[]), cast(:delivery_id as bigint[]), cast(:svix_id as text[]),
        cast(:message_at as timestamptz[]), cast(:changes as integer[]),
        cast(:differs as boolean[])
    ) as n (window_id, new_value, new_aggregation, new_source, new_delivery_id, new_svix_id,
            new_message_at, changes, differs)
    where id = window_id
    returning {WINDOW_COLUMNS}
    """  # noqa: S608 - the columns are a constant
)


async def keep_windows(
    connection: AsyncConnection, windows: Iterable[IncomingWindow], *, now: datetime
) -> Kept:
    """Insert or revise windows, given in the order of their arrival, and keep their history.

    To be called before the transaction locks any window: it waits for their series.
    """
    arrived: dict[WindowKey, list[IncomingWindow]] = defaultdict(list)
    for window in windows:
        arrived[window.key].append(window)
    if not arrived:
        return Kept([], 0)
    # A row that contradicts its query is billed, if ever, by hand: it makes no series.
    series = await lock_series(
        connection,
        (_in_series(w) for found in arrived.values() for w in found if not w.subject_contradicts),
    )
    inserted, history = await _insert(connection, arrived)
    there = {key: found for key, found in arrived.items() if key not in inserted}
    revised, changed = await _revise(connection, there)
    history += changed
    await write_history(connection, history, now=now)
    rows = [*inserted.values(), *revised]
    return Kept(
        [pending_window(row) for row in rows if row.state == "pending"],
        sum(verdict is Verdict.OLDER for _, _, verdict in history),
        series,
    )


History = list[tuple[int, Revision, Verdict]]


async def _insert(
    connection: AsyncConnection, arrived: Mapping[WindowKey, Sequence[IncomingWindow]]
) -> tuple[dict[WindowKey, Row[Any]], History]:
    """Insert the windows that are new: their rows, and what of them does not stand."""
    replayed = {key: replay(None, [w.revision for w in found]) for key, found in arrived.items()}
    first = [found[0] for found in arrived.values()]
    rows = await connection.execute(
        _INSERT,
        _key_columns(list(arrived))
        | _revision_columns(list(replayed.values()))
        | {
            "group_by": [window.group_by for window in first],
            "contradicts": [window.subject_contradicts for window in first],
            "revision": [outcome.changes + 1 for outcome in replayed.values()],
        },
    )
    inserted = {_key(row): row for row in rows}
    return inserted, [
        (row.id, *other) for key, row in inserted.items() for other in replayed[key].others
    ]


async def _revise(
    connection: AsyncConnection, arrived: Mapping[WindowKey, Sequence[IncomingWindow]]
) -> tuple[Sequence[Row[Any]], History]:
    """Revise windows that are there already: the rows of those with a newer delivery, and what
    does not stand (any more)."""
    if not arrived:
        return [], []
    history: History = []
    newer: dict[int, tuple[Replayed, bool]] = {}
    for row in await connection.execute(_LOCK, _key_columns(list(arrived))):
        before = Revision(
            row.value,
            row.aggregation,
            WindowSource(row.source),
            row.delivery_id,
            row.svix_id,
            row.message_at,
        )
        outcome = replay(before, [window.revision for window in arrived[_key(row)]])
        history += [(row.id, *other) for other in outcome.others]
        if outcome.standing is not before:
            # What was asked or replaced before is a delivery's word now, whatever its value.
            differs = outcome.standing.source is not before.source
            newer[row.id] = outcome, differs or not outcome.standing.tells_the_same(before)
    if not newer:
        return [], history
    outcomes = [outcome for outcome, _ in newer.values()]
    revised = await connection.execute(
        _REVISE,
        _revision_columns(outcomes)
        | {
            "window_id": list(newer),
            "source": [outcome.standing.source for outcome in outcomes],
            "changes": [outcome.changes for outcome in outcomes],
            "differs": [differs for _, differs in newer.values()],
        },
    )
    return revised.all(), history


def _in_series(window: IncomingWindow) -> SeriesWindow:
    key = window.key
    return SeriesWindow(
        SeriesKey(key.meter, key.subject, key.group_key),
        window.group_by,
        window.aggregation,
        key.window_start,
        key.window_end,
    )


def _key(row: Row[Any]) -> WindowKey:
    return WindowKey(row.meter, row.subject, row.group_key, row.window_start, row.window_end)


def _key_columns(keys: Sequence[WindowKey]) -> dict[str, list[Any]]:
    return {name: [getattr(key, name) for key in keys] for name in WindowKey._fields}


def _revision_columns(outcomes: Sequence[Replayed]) -> dict[str, list[Any]]:
    standing = [outcome.standing for outcome in outcomes]
    return {
        "value": [revision.value for revision in standing],
        "aggregation": [revision.aggregation for revision in standing],
        "delivery_id": [revision.delivery_id for revision in standing],
        "svix_id": [revision.svix_id for revision in standing],
        "message_at": [revision.message_at for revision in standing],
    }
