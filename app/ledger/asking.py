"""Asking: windows that count only through others, whose values OpenMeter is asked for. SQL only.

A window that straddles a period's boundary is covered by its two parts, each booked in its own
period; a window of a meter that cannot be combined is covered by its period's one window. These
others are rows like any window, pending as `awaiting_query` until the answer is there: what is
still to be asked is in the database, and a kill loses none of it.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import text
from app.ledger.parts import make_parts
from app.ledger.windows import AWAITING_QUERY, TO_BE_ASKED, PendingWindow, SettledWindow
from app.mapping.resolution import InParts, WholePeriod, WindowSource

IN_PARTS: Final = "in_parts"
WHOLE_PERIOD: Final = "whole_period"
# Of the advisory locks under which windows of whole periods are made.
PERIODS_LOCK: Final = 0x6D627770


def period_group(whole: WholePeriod) -> tuple[bytes, str]:
    """The group key of a whole period's window, and the groups it is for as JSON.

    Salted with the item and the start of its period: whatever becomes of the period's end, or of
    the part that is asked for, it is the same window; and one with its bounds is another fact.
    """
    written = json.dumps(
        dict(sorted(whole.group_filter)), ensure_ascii=False, separators=(",", ":")
    )
    of_period = (whole.target.subscription_item, whole.target.period_start.isoformat(), written)
    return hashlib.sha256("\0".join(("period:", *of_period)).encode()).digest()[:16], written


def answered(window: PendingWindow, whole: WholePeriod) -> bool:
    """Whether a window is a whole period's, asked for with these very bounds."""
    return (
        _is_of(window, whole)
        and window.facts.window_start == whole.asked.start
        and window.facts.window_end == whole.asked.end
    )


def asked_anew(
    windows: Iterable[PendingWindow],
    covered: Iterable[tuple[PendingWindow, InParts | WholePeriod]],
) -> frozenset[int]:
    """The whole periods' windows, by their ids, that others of the same batch have asked for again.

    What was answered before is not booked, then: it would pass for the new answer.
    """
    asked = {
        (window.facts.meter, window.facts.subject, period_group(how)[0])
        for window, how in covered
        if isinstance(how, WholePeriod)
    }
    return frozenset(
        window.id
        for window in windows
        if window.facts.source is WindowSource.PERIOD
        and (window.facts.meter, window.facts.subject, window.group_key) in asked
    )


def _is_of(window: PendingWindow, whole: WholePeriod) -> bool:
    return window.facts.source is WindowSource.PERIOD and window.group_key == period_group(whole)[0]


async def cover(
    connection: AsyncConnection,
    covered: Sequence[tuple[PendingWindow, InParts | WholePeriod]],
    *,
    now: datetime,
) -> list[SettledWindow]:
    """Make what counts in the place of locked windows, to be asked for; returns these, covered."""
    split = [(window, how) for window, how in covered if isinstance(how, InParts)]
    whole = [(window, how) for window, how in covered if isinstance(how, WholePeriod)]
    if split:
        await make_parts(connection, split, now)
    if whole:
        await _make_periods(connection, whole, now)
    return [
        SettledWindow(
            window.id,
            "covered",
            IN_PARTS if isinstance(how, InParts) else WHOLE_PERIOD,
            f"at {how.boundary.isoformat()}"
            if isinstance(how, InParts)
            else f"from {how.target.period_start.isoformat()}",
        )
        for window, how in covered
        if isinstance(how, InParts) or not _is_of(window, how)
    ]


async def _make_periods(
    connection: AsyncConnection, whole: Sequence[tuple[PendingWindow, WholePeriod]], now: datetime
) -> None:
    """One window for each whole period; the newest delivery behind it names it.

    Each time it is another revision, so that an answer to what was asked before is not written.
    While it waits, `booked_at` says since when.
    """
    newest = sorted(whole, key=lambda found: (found[0].message_at, found[0].svix_id))
    asked = {
        (window.facts.meter, window.facts.subject, key): (window, how, written)
        for window, how in newest
        for key, written in [period_group(how)]
    }
    await _ask_periods(connection, asked, now)


_Key = tuple[str, str, bytes]
_Asked = Mapping[_Key, tuple[PendingWindow, WholePeriod, str]]


async def _ask_periods(connection: AsyncConnection, asked: _Asked, now: datetime) -> None:
    """Have the windows asked for again that are there, and make the others.

    The end of a period may move, and with it the bounds of its window: so these do not say which
    it is, and two replicas that make it at the same time have to take turns.
    """
    missing = await _revise_periods(connection, asked, now)
    if not missing:
        return
    for _, _, key in sorted(missing, key=lambda key: key[2]):
        await connection.execute(
            text("select pg_advisory_xact_lock(:space, :key)"),
            {"space": PERIODS_LOCK, "key": int.from_bytes(key[:4], signed=True)},
        )
    missing = await _revise_periods(connection, missing, now)
    if missing:
        await connection.execute(_INSERT_PERIODS, _columns(missing, now))


async def _revise_periods(connection: AsyncConnection, asked: _Asked, now: datetime) -> _Asked:
    rows = await connection.execute(_REVISE_PERIODS, _columns(asked, now))
    found = {(row.meter, row.subject, row.group_key) for row in rows}
    return {key: value for key, value in asked.items() if key not in found}


def _columns(asked: _Asked, now: datetime) -> dict[str, object]:
    whole = [how for _, how, _ in asked.values()]
    return {
        "now": now,
        "ids": [window.id for window, *_ in asked.values()],
        "group_keys": [key for _, _, key in asked],
        "group_bys": [written for *_, written in asked.values()],
        "starts": [how.asked.start for how in whole],
        "ends": [how.asked.end for how in whole],
        "seconds": [how.target.timestamp for how in whole],
    }


_ASKED: Final = """
    unnest(cast(:ids as bigint[]), cast(:group_keys as bytea[]), cast(:group_bys as text[]),
           cast(:starts as timestamptz[]), cast(:ends as timestamptz[]),
           cast(:seconds as bigint[])) as t (id, group_key, group_by, starts, ends, second)
    join usage_windows p on p.id = t.id
"""

_REVISE_PERIODS = text(
    f"""
    with found as materialized (
        select w.id, t.starts, t.ends, p.delivery_id, p.svix_id, p.message_at, p.aggregation
        from {_ASKED}
        join usage_windows w on w.meter = p.meter and w.subject = p.subject
            and w.group_key = t.group_key and w.source = 'period'
        order by w.meter, w.subject, w.group_key, w.window_start, w.window_end for update of w)
    update usage_windows w set
        window_start = f.starts, window_end = f.ends,
        delivery_id = f.delivery_id, svix_id = f.svix_id, message_at = f.message_at,
        aggregation = f.aggregation, revision = w.revision + 1,
        state = 'pending', reason = '{AWAITING_QUERY}', detail = null,
        retry_at = cast(:now as timestamptz),
        booked_at = case when w.state = 'pending' and w.reason in {TO_BE_ASKED}
                         then w.booked_at else cast(:now as timestamptz) end
    from found f where w.id = f.id
    returning w.meter, w.subject, w.group_key
    """  # noqa: S608 - constants
)

_INSERT_PERIODS = text(
    f"""
    insert into usage_windows (
        meter, subject, group_key, group_by, window_start, window_end, aggregation, value,
        source, record_at, delivery_id, svix_id, message_at, state, reason, retry_at, booked_at)
    select p.meter, p.subject, t.group_key, cast(t.group_by as jsonb), t.starts, t.ends,
           p.aggregation, 0, 'period', t.second, p.delivery_id, p.svix_id, p.message_at,
           'pending', '{AWAITING_QUERY}', cast(:now as timestamptz), cast(:now as timestamptz)
    from {_ASKED}
    """  # noqa: S608 - constants
)
