"""Keeping: windows as deliveries tell them -> the ledger, in whole batches.

lock their series                       nobody else keeps or books a window of these
lock those that are there, and compare  newer revises, older is history, the same is nothing
give the others ids                     they are written when it is known what becomes of them
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from app.driver import Row, Statement
from app.ledger.columns import column, moments, texts
from app.ledger.history import Replayed, Revision, Verdict, replay, write_history
from app.ledger.incoming import IncomingWindow, WindowKey
from app.ledger.series import SeriesKey, SeriesWindow, lock_series
from app.ledger.unwritten import NewWindow, Unwritten
from app.ledger.windows import TO_BE_ASKED, WINDOW_COLUMNS, PendingWindow, pending_window
from app.mapping.releases import KEY_ORDER
from app.mapping.resolution import WindowSource

History = list[tuple[int, Revision, Verdict]]


@dataclass(frozen=True, slots=True)
class Kept:
    """Windows that are to be booked, and how many arrivals were older than what stands.

    `series` are locked by this transaction. Of the pending windows those that are `unwritten`, and
    the history of these, are still to be written.
    """

    pending: list[PendingWindow]
    older: int
    series: frozenset[SeriesKey] = frozenset()
    unwritten: Unwritten = field(default_factory=Unwritten)
    history: History = field(default_factory=list)

    async def write_history(self, connection: AsyncConnection, *, now: datetime) -> None:
        """Keep what does not stand of new windows, once these are written."""
        await write_history(connection, self.history, now=now)


# The windows that are there, and one row with the ids of those that are not.
_LOCK = Statement(
    f"""
    with there as materialized (
        select id, meter, subject, group_key, window_start, window_end, value, aggregation, source,
               delivery_id, svix_id, message_at
        from usage_windows
        where (meter, subject, group_key, window_start, window_end) in (
            select coalesce(t.meter, :every_meter), t.subject,
                   coalesce(t.group_key, :every_group_key), t.starts, t.ends
            from unnest(
                cast(:meter as text[]), cast(cast(:subject as text) as text[]),
                cast(:group_key as bytea[]), cast(cast(:starts as text) as timestamptz[]),
                cast(cast(:ends as text) as timestamptz[])
            ) as t (meter, subject, group_key, starts, ends))
        {KEY_ORDER} for update),
    new as (
        select array_agg(nextval(
            cast(pg_get_serial_sequence('usage_windows', 'id') as regclass))) as new_ids
        from generate_series(1, cast(:number as integer) - (select count(*) from there)))
    select there.*, new.new_ids from there full join new on false
    """  # noqa: S608 - the order is a constant
)

_REVISE = Statement(
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
    """Revise windows, given in the order of their arrival, and keep their history.

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
    named = _key_columns(arrived) | {"number": len(arrived)}
    rows = await _LOCK.fetch(connection, named)
    there = [row for row in rows if row.id is not None]
    revised, changed = await _revise(connection, there, arrived)
    await write_history(connection, changed, now=now)
    known = {_key(row) for row in there}
    new, history = _new(
        [id_ for row in rows if row.id is None for id_ in row.new_ids or ()],
        {key: found for key, found in arrived.items() if key not in known},
    )
    return Kept(
        [
            *(window.pending for window in new),
            *(pending_window(row) for row in revised if row.state == "pending"),
        ],
        sum(verdict is Verdict.OLDER for _, _, verdict in [*history, *changed]),
        series,
        Unwritten(new),
        history,
    )


def _new(
    ids: Sequence[int], arrived: Mapping[WindowKey, Sequence[IncomingWindow]]
) -> tuple[list[NewWindow], History]:
    """Windows that are not there yet, and what of them does not stand."""
    new: list[NewWindow] = []
    history: History = []
    for id_, key in zip(sorted(ids), sorted(arrived), strict=True):
        found = arrived[key]
        outcome = replay(None, [window.revision for window in found])
        new.append(NewWindow(id_, found[0], outcome.standing, outcome.changes + 1))
        history += [(id_, *other) for other in outcome.others]
    return new, history


async def _revise(
    connection: AsyncConnection,
    there: Iterable[Row],
    arrived: Mapping[WindowKey, Sequence[IncomingWindow]],
) -> tuple[Sequence[Row], History]:
    """Revise windows that are there already, and locked: the rows of those with a newer delivery,
    and what does not stand (any more)."""
    history: History = []
    newer: dict[int, tuple[Replayed, bool]] = {}
    for row in there:
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
    revised = await _REVISE.fetch(
        connection,
        _revision_columns(outcomes)
        | {
            "window_id": list(newer),
            "source": [outcome.standing.source for outcome in outcomes],
            "changes": [outcome.changes for outcome in outcomes],
            "differs": [differs for _, differs in newer.values()],
        },
    )
    return revised, history


def _in_series(window: IncomingWindow) -> SeriesWindow:
    key = window.key
    return SeriesWindow(
        SeriesKey(key.meter, key.subject, key.group_key),
        window.group_by,
        window.aggregation,
        key.window_start,
        key.window_end,
    )


def _key(row: Row) -> WindowKey:
    return WindowKey(row.meter, row.subject, row.group_key, row.window_start, row.window_end)


def _key_columns(keys: Collection[WindowKey]) -> dict[str, Any]:
    return {
        **column("meter", [key.meter for key in keys]),
        "subject": texts([key.subject for key in keys]),
        **column("group_key", [key.group_key for key in keys]),
        "starts": moments(key.window_start for key in keys),
        "ends": moments(key.window_end for key in keys),
    }


def _revision_columns(outcomes: Sequence[Replayed]) -> dict[str, list[Any]]:
    standing = [outcome.standing for outcome in outcomes]
    return {
        "value": [revision.value for revision in standing],
        "aggregation": [revision.aggregation for revision in standing],
        "delivery_id": [revision.delivery_id for revision in standing],
        "svix_id": [revision.svix_id for revision in standing],
        "message_at": [revision.message_at for revision in standing],
    }
