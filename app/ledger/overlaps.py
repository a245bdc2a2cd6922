"""Overlaps: of two windows of one series that share time only one is billed.

An hourly and a daily sync on one meter tell the same usage twice. The window that was accepted
first stays; one that overlaps it is parked, naming the other one. Looked at under the lock of the
series, so that two replicas do not accept one each.

So is one that begins before the end of what was deleted of its series: it may have been billed. But
not one that was accepted before that, and waits in the ledger since.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple

from sqlalchemy.ext.asyncio import AsyncConnection

from app.driver import Statement
from app.ledger.columns import column, moments, numbers, texts
from app.ledger.series import SeriesKey, hold_free_series
from app.ledger.windows import PendingWindow, SettledWindow
from app.mapping.reasons import ParkReason
from app.mapping.resolution import WindowSource


class OtherWindow(NamedTuple):
    """The window that another one overlaps. Its bounds are half-open."""

    id: int
    window_start: datetime
    window_end: datetime
    svix_id: str

    def describe(self) -> str:
        """As an operator reads it."""
        return (
            f"overlaps window {self.id} of {self.svix_id} "
            f"({self.window_start.isoformat()} to {self.window_end.isoformat()})"
        )


@dataclass(frozen=True, slots=True)
class PrunedUntil:
    """Up to where windows of the series were deleted: they cannot be compared any more."""

    at: datetime

    def describe(self) -> str:
        """As an operator reads it."""
        return f"windows of this meter, subject and group up to {self.at.isoformat()} were deleted"


@dataclass(frozen=True, slots=True)
class Admitted:
    """Windows that may be booked, and those that are parked because they overlap one.

    The newest window of the series that are `changed` is to be found anew, once all is written.
    `provisional`: there may be windows of flushes, which these take the place of.
    """

    windows: list[PendingWindow]
    parked: list[SettledWindow]
    changed: frozenset[SeriesKey]
    provisional: bool


# No window is longer than its series' longest, so the search starts that much before: among the
# windows of a year it looks at two or three. Of windows that wait, the one with the smaller id
# counts; those of this batch are compared beside. The last row is of no window: it says whether
# there are provisional ones. Without OpenMeter's API there are none, and nothing is to be compared.
_FIND = Statement(
    """
    select t.id as window_id, o.id, o.window_start, o.window_end, o.svix_id, o.pruned_until
    from (
        select u.id, coalesce(u.meter, :every_meter) as meter, u.subject,
               coalesce(u.group_key, :every_group_key) as group_key,
               u.window_start, u.window_end, coalesce(u.accepted, :every_accepted) as accepted
        from unnest(
            cast(cast(:id as text) as bigint[]), cast(:meter as text[]),
            cast(cast(:subject as text) as text[]), cast(:group_key as bytea[]),
            cast(cast(:starts as text) as timestamptz[]),
            cast(cast(:ends as text) as timestamptz[]), cast(:accepted as boolean[])
        ) as u (id, meter, subject, group_key, window_start, window_end, accepted)) t
    left join usage_series s using (meter, subject, group_key)
    cross join lateral (
        select null as id, null as window_start, null as window_end, null as svix_id, s.pruned_until
        where t.window_start < s.pruned_until and not t.accepted
        union all
        (select w.id, w.window_start, w.window_end, w.svix_id, null from usage_windows w
        where w.meter = t.meter and w.subject = t.subject and w.group_key = t.group_key
          and w.window_start > coalesce(t.window_start - s.longest, '-infinity')
          and w.window_start < t.window_end and w.window_end > t.window_start
          and w.id <> t.id and w.source = 'webhook' and not w.subject_contradicts
          and not (w.state = 'parked' and w.usage_record_id is null
                   and w.reason in ('overlaps_window', 'older_than_retention'))
          and not (w.state = 'pending' and w.usage_record_id is null and w.moving_from is null
                   and (w.id > t.id or w.id = any(cast(cast(:id as text) as bigint[]))))
        order by w.window_start, w.window_end limit 1) limit 1) o
    union all
    select null, null, null, null, null, null
    where exists (select 1 from usage_windows where source = 'flush')
    """
)


async def admit(
    connection: AsyncConnection, windows: Sequence[PendingWindow], *, locked: Collection[SeriesKey]
) -> Admitted:
    """Sort out locked windows that overlap another one; `locked` are series that are locked.

    Windows whose series somebody else has are in neither list: they stay pending.
    """
    looked_at = [window for window in windows if _may_overlap(window)]
    foreign = {series_of(window) for window in looked_at} - set(locked)
    held = await hold_free_series(connection, foreign)
    free = [w for w in looked_at if series_of(w) in locked or series_of(w) in held]
    found, provisional = await _overlaps(connection, free)
    accepted = [window for window in free if window.id not in found]
    # Their row was written as if all windows of this batch counted, and none that was released.
    changed = {series_of(window) for window in free if window.id in found} | {
        series_of(window)
        for window in accepted
        if (newest_end := held.get(series_of(window))) is not None
        and window.facts.window_end > newest_end
    }
    let_in = {window.id for window in accepted}
    return Admitted(
        [w for w in windows if w.id in let_in or not _may_overlap(w)],
        [
            SettledWindow(id_, "parked", _REASONS[type(other)], other.describe())
            for id_, other in found.items()
        ],
        frozenset(changed),
        # Of windows that are not compared here nobody has looked.
        provisional or len(free) < len(windows),
    )


_REASONS: Final[dict[type[OtherWindow | PrunedUntil], ParkReason]] = {
    OtherWindow: ParkReason.OVERLAPS_WINDOW,
    PrunedUntil: ParkReason.OLDER_THAN_RETENTION,
}


def series_of(window: PendingWindow) -> SeriesKey:
    """The series that a window belongs to."""
    return SeriesKey(window.facts.meter, window.facts.subject, window.group_key)


async def _overlaps(
    connection: AsyncConnection, windows: Sequence[PendingWindow]
) -> tuple[dict[int, OtherWindow | PrunedUntil], bool]:
    """Windows of locked series that overlap an accepted one, by id, with that one, or what was
    deleted; and whether there are provisional windows.

    Accepted is every other window from a delivery that is not itself parked for an overlap. Of
    two windows given the one with the smaller id is accepted.
    """
    if not windows:
        return {}, False
    rows = await _FIND.fetch(
        connection,
        {
            "id": numbers(w.id for w in windows),
            **column("meter", [w.facts.meter for w in windows]),
            "subject": texts([w.facts.subject for w in windows]),
            **column("group_key", [w.group_key for w in windows]),
            "starts": moments(w.facts.window_start for w in windows),
            "ends": moments(w.facts.window_end for w in windows),
            **column("accepted", [w.accepted for w in windows]),
        },
    )
    found: dict[int, OtherWindow | PrunedUntil] = {}
    provisional = False
    for row in rows:
        if row.window_id is None:
            provisional = True
        elif row.id is None:
            found[row.window_id] = PrunedUntil(row.pruned_until)
        else:
            found[row.window_id] = OtherWindow(
                row.id, row.window_start, row.window_end, row.svix_id
            )
    within = overlaps_within(window for window in windows if window.id not in found)
    return found | within, provisional


def overlaps_within(windows: Iterable[PendingWindow]) -> dict[int, OtherWindow]:
    """Of windows that wait together: those that overlap one with a smaller id. Pure."""
    accepted: dict[SeriesKey, list[tuple[datetime, OtherWindow]]] = defaultdict(list)
    found: dict[int, OtherWindow] = {}
    for window in sorted(windows, key=lambda w: w.id):
        start, end = window.facts.window_start, window.facts.window_end
        # Sorted, and none overlaps another: so only the neighbours can overlap this one.
        beside = accepted[series_of(window)]
        place = bisect_left(beside, start, key=lambda entry: entry[0])
        if place > 0 and beside[place - 1][1].window_end > start:
            found[window.id] = beside[place - 1][1]
        elif place < len(beside) and beside[place][0] < end:
            found[window.id] = beside[place][1]
        else:
            beside.insert(place, (start, OtherWindow(window.id, start, end, window.svix_id)))
    return found


def _may_overlap(window: PendingWindow) -> bool:
    """What stands on a record, or is on its way to another one, was accepted; what contradicts its
    query is parked anyway."""
    return (
        window.usage_record_id is None
        and window.moving_from is None
        and window.facts.source is WindowSource.WEBHOOK
        and not window.facts.subject_contradicts
    )
