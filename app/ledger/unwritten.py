"""Windows that are new: each is written once, as what becomes of it. SQL only.

A window that comes for the first time and can be booked at once is one row written, and none
rewritten: inserted as pending and then updated it cost twice the time, and left a dead row behind.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from fractions import Fraction
from typing import Final, NamedTuple

from sqlalchemy.ext.asyncio import AsyncConnection

from app.driver import Statement
from app.ledger.columns import column, moments, numbers, texts
from app.ledger.history import Revision
from app.ledger.incoming import IncomingWindow
from app.ledger.windows import PendingWindow, SettledWindow
from app.mapping.releases import KEY_ORDER
from app.mapping.resolution import WindowFacts


class WindowAppeared(Exception):
    """Another replica has written the window a moment ago: book the batch again."""


class NewWindow(NamedTuple):
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


# In the order of their key, as windows are locked: so nobody waits in a circle. What the delivery
# says is taken from there; numbers and moments come as text, and what all have in common once.
_INSERT: Final = Statement(
    f"""
    with inserted as (
        insert into usage_windows (
            id, meter, subject, group_key, window_start, window_end, group_by, aggregation, value,
            subject_contradicts, revision, delivery_id, svix_id, message_at, state, reason, detail,
            retry_at, usage_record_id, amount_numerator, amount_denominator, scale_numerator,
            scale_denominator, slipped_from, slipped_to, booked_at)
        overriding system value
        select w.*, case when w.state in ('booked', 'covered') then cast(:now as timestamptz) end
        from (
            select t.id, coalesce(t.meter, :every_meter) as meter, t.subject,
                   coalesce(t.group_key, :every_group_key) as group_key,
                   t.window_start, t.window_end,
                   cast(coalesce(t.group_by, :every_group_by) as jsonb),
                   coalesce(t.aggregation, :every_aggregation), t.value,
                   coalesce(t.contradicts, :every_contradicts),
                   coalesce(t.revision, :every_revision), d.id, d.svix_id, d.message_at,
                   coalesce(t.state, :every_state) as state, coalesce(t.reason, :every_reason),
                   coalesce(t.detail, :every_detail), coalesce(t.retry_at, :every_retry_at),
                   t.usage_record_id, t.numerator,
                   cast(coalesce(t.denominator, :every_denominator) as numeric),
                   cast(coalesce(t.scale_numerator, :every_scale_numerator) as numeric),
                   cast(coalesce(t.scale_denominator, :every_scale_denominator) as numeric),
                   coalesce(t.slipped_from, :every_slipped_from),
                   coalesce(t.slipped_to, :every_slipped_to)
            from unnest(
                cast(cast(:id as text) as bigint[]), cast(:meter as text[]),
                cast(cast(:subject as text) as text[]), cast(:group_key as bytea[]),
                cast(cast(:starts as text) as timestamptz[]),
                cast(cast(:ends as text) as timestamptz[]), cast(:group_by as text[]),
                cast(:aggregation as text[]), cast(cast(:value as text) as numeric[]),
                cast(:contradicts as boolean[]), cast(:revision as integer[]),
                cast(cast(:delivery_id as text) as bigint[]), cast(:state as text[]),
                cast(:reason as text[]), cast(:detail as text[]), cast(:retry_at as timestamptz[]),
                cast(cast(:usage_record_id as text) as bigint[]),
                cast(cast(:numerator as text) as numeric[]), cast(:denominator as text[]),
                cast(:scale_numerator as text[]), cast(:scale_denominator as text[]),
                cast(:slipped_from as timestamptz[]), cast(:slipped_to as timestamptz[])
            ) as t (id, meter, subject, group_key, window_start, window_end, group_by, aggregation,
                    value, contradicts, revision, delivery_id, state, reason, detail, retry_at,
                    usage_record_id, numerator, denominator, scale_numerator, scale_denominator,
                    slipped_from, slipped_to)
            join deliveries d on d.id = t.delivery_id) w
        {KEY_ORDER}
        on conflict (meter, subject, group_key, window_start, window_end) do nothing
        returning 1)
    select count(*) as number from inserted
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
    inserted = await _INSERT.fetch(
        connection,
        {
            "now": now,
            "id": numbers(window.id for window in windows),
            **column("meter", [key.meter for key in keys]),
            "subject": texts([key.subject for key in keys]),
            **column("group_key", [key.group_key for key in keys]),
            "starts": moments(key.window_start for key in keys),
            "ends": moments(key.window_end for key in keys),
            **column("group_by", [window.told.group_by for window in windows]),
            **column("aggregation", [revision.aggregation for revision in standing]),
            "value": numbers(revision.value for revision in standing),
            **column("contradicts", [w.told.subject_contradicts for w in windows]),
            **column("revision", [window.revision for window in windows]),
            "delivery_id": numbers(revision.delivery_id for revision in standing),
            **column("state", [w.state for w in outcomes]),
            **column("reason", [w.reason for w in outcomes]),
            **column("detail", [w.detail for w in outcomes]),
            **column("retry_at", [w.retry_at for w in outcomes]),
            "usage_record_id": numbers(w.usage_record_id for w in outcomes),
            "numerator": numbers(w.amount.numerator for w in outcomes),
            **column("denominator", [str(w.amount.denominator) for w in outcomes]),
            **column("scale_numerator", [w.scale and str(w.scale.numerator) for w in outcomes]),
            **column("scale_denominator", [w.scale and str(w.scale.denominator) for w in outcomes]),
            **column("slipped_from", [w.slipped and w.slipped[0] for w in outcomes]),
            **column("slipped_to", [w.slipped and w.slipped[1] for w in outcomes]),
        },
    )
    if inserted[0].number != len(windows):
        raise WindowAppeared
