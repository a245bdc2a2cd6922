"""Windows that are new: each is written once, as what becomes of it. SQL only.

A window that comes for the first time and can be booked at once is one row written, and none
rewritten: inserted as pending and then updated it cost twice the time, and left a dead row behind.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from typing import Final, TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import text
from app.ledger.history import Revision
from app.ledger.incoming import IncomingWindow
from app.ledger.windows import PendingWindow, SettledWindow
from app.mapping.releases import KEY_ORDER
from app.mapping.resolution import WindowFacts

T = TypeVar("T")


class WindowAppeared(Exception):
    """Another replica has written the window a moment ago: book the batch again."""


@dataclass(frozen=True, slots=True)
class NewWindow:
    """A window that no row is there for yet. `revision`: how many values it has had by now."""

    id: int
    told: IncomingWindow
    standing: Revision
    revision: int

    @property
    def pending(self) -> PendingWindow:
        """It, as it is to be booked."""
        key = self.told.key
        return PendingWindow(
            self.id,
            WindowFacts(
                key.meter,
                key.subject,
                self.standing.aggregation,
                key.window_start,
                key.window_end,
                self.told.subject_contradicts,
                self.told.groups,
            ),
            key.group_key,
            self.standing.value,
            self.revision,
            self.standing.svix_id,
            self.standing.message_at,
            None,
            _NOTHING,
        )


_NOTHING: Final = Fraction(0)


class Unwritten:
    """The new windows of a batch, until they are written."""

    def __init__(self, windows: Iterable[NewWindow] = ()) -> None:
        self._windows = {window.id: window for window in windows}

    async def write(
        self,
        connection: AsyncConnection,
        settled: Iterable[SettledWindow] = (),
        *,
        only: Iterable[int] | None = None,
        now: datetime,
    ) -> list[SettledWindow]:
        """Write all of them (or `only` some), each as it is settled, else pending.

        Returns those of `settled` that have a row already. Raises WindowAppeared.
        """
        by_id = {window.id: window for window in settled}
        chosen = self._windows if only is None else self._windows.keys() & set(only)
        written = [self._windows[id_] for id_ in list(chosen)]
        if written:
            await _insert(connection, written, by_id, now)
        for window in written:
            del self._windows[window.id]
            by_id.pop(window.id, None)
        return list(by_id.values())


_IDS: Final = text(
    """
    select nextval(cast(pg_get_serial_sequence('usage_windows', 'id') as regclass))
    from generate_series(1, :number)
    """
)


async def new_ids(connection: AsyncConnection, number: int) -> list[int]:
    """Ids for so many new windows, rising."""
    if not number:
        return []
    return sorted((await connection.execute(_IDS, {"number": number})).scalars())


# In the order of their key, as windows are locked: so nobody waits in a circle. Whole numbers come
# as text, which costs the driver a fifth of a numeric; what is as usual for all does not come.
_INSERT: Final = text(
    f"""
    insert into usage_windows (
        id, meter, subject, group_key, window_start, window_end, group_by, aggregation, value,
        subject_contradicts, revision, delivery_id, svix_id, message_at, state, reason, detail,
        retry_at, usage_record_id, amount_numerator, amount_denominator, scale_numerator,
        scale_denominator, slipped_from, slipped_to, booked_at)
    overriding system value
    select id, meter, subject, group_key, window_start, window_end, cast(group_by as jsonb),
           aggregation, value, coalesce(contradicts, false), coalesce(revision, 1), delivery_id,
           svix_id, message_at, state, reason, detail, retry_at, usage_record_id,
           coalesce(cast(numerator as numeric), 0), coalesce(cast(denominator as numeric), 1),
           cast(scale_numerator as numeric), cast(scale_denominator as numeric), slipped_from,
           slipped_to,
           case when state in ('booked', 'covered') then cast(:now as timestamptz) end
    from unnest(
        cast(:id as bigint[]), cast(:meter as text[]), cast(:subject as text[]),
        cast(:group_key as bytea[]), cast(:window_start as timestamptz[]),
        cast(:window_end as timestamptz[]), cast(:group_by as text[]),
        cast(:aggregation as text[]), cast(:value as numeric[]), cast(:contradicts as boolean[]),
        cast(:revision as integer[]), cast(:delivery_id as bigint[]), cast(:svix_id as text[]),
        cast(:message_at as timestamptz[]), cast(:state as text[]), cast(:reason as text[]),
        cast(:detail as text[]), cast(:retry_at as timestamptz[]),
        cast(:usage_record_id as bigint[]), cast(:numerator as text[]),
        cast(:denominator as text[]), cast(:scale_numerator as text[]),
        cast(:scale_denominator as text[]), cast(:slipped_from as timestamptz[]),
        cast(:slipped_to as timestamptz[])
    ) as t (id, meter, subject, group_key, window_start, window_end, group_by, aggregation, value,
            contradicts, revision, delivery_id, svix_id, message_at, state, reason, detail,
            retry_at, usage_record_id, numerator, denominator, scale_numerator, scale_denominator,
            slipped_from, slipped_to)
    {KEY_ORDER}
    on conflict (meter, subject, group_key, window_start, window_end) do nothing
    """  # noqa: S608 - a constant
)


async def _insert(
    connection: AsyncConnection,
    windows: Sequence[NewWindow],
    settled: Mapping[int, SettledWindow],
    now: datetime,
) -> None:
    outcomes = [settled.get(w.id) or SettledWindow(w.id, "pending") for w in windows]
    keys = [window.told.key for window in windows]
    standing = [window.standing for window in windows]
    result = await connection.execute(
        _INSERT,
        {
            "now": now,
            "id": [window.id for window in windows],
            "meter": [key.meter for key in keys],
            "subject": [key.subject for key in keys],
            "group_key": [key.group_key for key in keys],
            "window_start": [key.window_start for key in keys],
            "window_end": [key.window_end for key in keys],
            "group_by": [window.told.group_by for window in windows],
            "aggregation": [revision.aggregation for revision in standing],
            "value": [revision.value for revision in standing],
            "contradicts": _unusual([w.told.subject_contradicts for w in windows], usual=False),
            "revision": _unusual([window.revision for window in windows], 1),
            "delivery_id": [revision.delivery_id for revision in standing],
            "svix_id": [revision.svix_id for revision in standing],
            "message_at": [revision.message_at for revision in standing],
            "state": [w.state for w in outcomes],
            "reason": _unusual([w.reason for w in outcomes]),
            "detail": _unusual([w.detail for w in outcomes]),
            "retry_at": _unusual([w.retry_at for w in outcomes]),
            "usage_record_id": [w.usage_record_id for w in outcomes],
            "numerator": [str(w.amount.numerator) for w in outcomes],
            "denominator": _unusual([str(w.amount.denominator) for w in outcomes], "1"),
            "scale_numerator": [w.scale and str(w.scale.numerator) for w in outcomes],
            "scale_denominator": [w.scale and str(w.scale.denominator) for w in outcomes],
            "slipped_from": _unusual([w.slipped and w.slipped[0] for w in outcomes]),
            "slipped_to": _unusual([w.slipped and w.slipped[1] for w in outcomes]),
        },
    )
    if result.rowcount != len(windows):
        raise WindowAppeared


def _unusual(values: list[T], usual: T | None = None) -> list[T]:
    """A column, or nothing where all is as usual: `unnest` makes nulls of what is missing."""
    return [] if all(value == usual for value in values) else values
