"""What the ledger has to say of itself: counts, lists, and releases by an operator. SQL only."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from app.db import text, transaction
from app.health import OLDEST_UNSENT
from app.ledger.counting import counts
from app.mapping import snapshots
from app.mapping.releases import ask, release_named


@dataclass(frozen=True, slots=True)
class Backlog:
    """What is still to do. All zero: drained."""

    deliveries: int
    windows: int
    records: int
    oldest_unsent: datetime | None
    set_aside: int = 0  # deliveries failed, windows parked, records held: they wait for somebody

    @property
    def drained(self) -> bool:
        """Whether nothing is left that the program could do by itself."""
        return self.deliveries == self.windows == self.records == 0


@dataclass(frozen=True, slots=True)
class Summary:
    """The state of the whole way, from delivery to Stripe."""

    deliveries: dict[str, int]
    windows: dict[str, int]
    parked: dict[str, int]
    records: dict[str, int]
    held: dict[str, int]
    oldest_unsent: datetime | None


@dataclass(frozen=True, slots=True)
class LineRow:
    """The line to Stripe as operators see it."""

    stopped: bool
    reason: str | None
    detail: str | None
    since: datetime | None


@dataclass(frozen=True, slots=True)
class WindowRow:
    """A usage window as operators see it."""

    id: int
    meter: str
    subject: str
    group_by: dict[str, str]
    window_start: datetime
    window_end: datetime
    aggregation: str
    value: Decimal
    source: str
    state: str
    reason: str | None
    detail: str | None
    svix_id: str
    revision: int
    usage_record_id: int | None
    slipped_from: datetime | None
    slipped_to: datetime | None


@dataclass(frozen=True, slots=True)
class RecordRow:
    """A usage record as operators see it."""

    id: int
    subscription: str
    subscription_item: str
    timestamp: int
    wanted_quantity: int
    reported_quantity: int
    state: str
    reason: str | None
    detail: str | None
    due_at: datetime | None
    revision: int
    failures: int
    in_doubt: bool


_NAMED = """
    state = 'parked'
    and (reason = cast(:reason as text) or id = any(cast(:ids as bigint[])))
"""
_READ_ANEW = text(
    f"""
    update subscription_snapshots set fetched_at = 'epoch' where subscription in (
        select subscription from subject_mappings where subject in (
            select subject from usage_windows where {_NAMED}))
    """  # noqa: S608 - a constant of this module
)


class StatusRepository:
    """Reads the ledger for people, and releases what they tell it to."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def backlog(self) -> Backlog:
        """What is still to do; cheap: it looks at the partial indexes only."""
        async with transaction(self._engine) as connection:
            row = (
                await connection.execute(
                    text(
                        f"""
                        select
                          (select count(*) from deliveries where state = 'received') as deliveries,
                          (select count(*) from usage_windows where state = 'pending')
                              + (select count(*) from window_releases) as windows,
                          (select count(*) from usage_records where state in ('due', 'late'))
                              as records,
                          {OLDEST_UNSENT} as oldest_unsent,
                          (select count(*) from usage_windows where state = 'parked')
                              + (select count(*) from usage_records where state = 'held')
                              + (select count(*) from deliveries where state = 'failed')
                              as set_aside
                        """  # noqa: S608 - a constant
                    )
                )
            ).one()
        return Backlog(row.deliveries, row.windows, row.records, row.oldest_unsent, row.set_aside)

    async def summary(self) -> Summary:
        """Counts of everything, by state and reason."""
        async with transaction(self._engine) as connection:
            deliveries = await counts(connection, "deliveries", "state", usual="booked")
            windows = await counts(connection, "usage_windows", "state", usual="booked")
            parked = await counts(connection, "usage_windows", "reason", where="state = 'parked'")
            records = await counts(connection, "usage_records", "state", usual="reported")
            held = await counts(connection, "usage_records", "reason", where="state = 'held'")
            oldest = await connection.scalar(text(f"select {OLDEST_UNSENT}"))
        return Summary(deliveries, windows, parked, records, held, oldest)

    async def line(self) -> LineRow:
        """Whether the line to Stripe is stopped, and why."""
        async with transaction(self._engine) as connection:
            row = (
                await connection.execute(
                    text("select stopped, reason, detail, since from stripe_line where id = 1")
                )
            ).one()
        return LineRow(*row)

    async def windows(
        self,
        *,
        state: str | None,
        reason: str | None,
        subject: str | None,
        meter: str | None,
        record: int | None,
        after: int,
        limit: int,
    ) -> list[WindowRow]:
        """A page of windows, by id."""
        async with transaction(self._engine) as connection:
            rows = await connection.execute(
                text(
                    """
                    select id, meter, subject, group_by, window_start, window_end, aggregation,
                           value, source, state, reason, detail, svix_id, revision,
                           usage_record_id, slipped_from, slipped_to
                    from usage_windows
                    where id > :after
                      and (cast(:state as text) is null or state = :state)
                      and (cast(:reason as text) is null or reason = :reason)
                      and (cast(:subject as text) is null or subject = :subject)
                      and (cast(:meter as text) is null or meter = :meter)
                      and (cast(:record as bigint) is null or usage_record_id = :record)
                    order by id limit :limit
                    """
                ),
                {
                    "after": after,
                    "state": state,
                    "reason": reason,
                    "subject": subject,
                    "meter": meter,
                    "record": record,
                    "limit": limit,
                },
            )
            return [WindowRow(*row) for row in rows]

    async def records(
        self,
        *,
        state: str | None,
        reason: str | None,
        subscription: str | None,
        after: int,
        limit: int,
    ) -> list[RecordRow]:
        """A page of usage records, by id."""
        async with transaction(self._engine) as connection:
            rows = await connection.execute(
                text(
                    """
                    select id, subscription, subscription_item, timestamp,
                           wanted_quantity, reported_quantity, state, reason, detail, due_at,
                           revision, failures, (sent_key is not null or doubtful) as in_doubt
                    from usage_records
                    where id > :after
                      and (cast(:state as text) is null or state = :state)
                      and (cast(:reason as text) is null or reason = :reason)
                      and (cast(:subscription as text) is null or subscription = :subscription)
                    order by id limit :limit
                    """
                ),
                {
                    "after": after,
                    "state": state,
                    "reason": reason,
                    "subscription": subscription,
                    "limit": limit,
                },
            )
            return [_record_row(row._mapping) for row in rows]  # noqa: SLF001 - SQLAlchemy's name

    async def release_windows(self, *, reason: str | None, ids: Sequence[int]) -> int:
        """Have parked windows booked anew: those of a reason, or those named. Returns how many.

        Whoever releases a row that contradicts its query vouches for it, and a reduction that needs
        approval is approved; whoever releases what waits for Stripe says that Stripe was mended, so
        the subscriptions are read again.
        """
        named = {"reason": reason, "ids": list(ids)}
        async with transaction(self._engine) as connection:
            count: int = (
                await connection.execute(
                    text(f"select count(*) from usage_windows where {_NAMED}"),  # noqa: S608
                    named,
                )
            ).scalar_one()
            await connection.execute(_READ_ANEW, named)
            await connection.execute(
                text("select pg_notify(:channel, :all)"),
                {"channel": snapshots.CHANNEL, "all": snapshots.ALL},
            )
            if reason is not None:
                await ask(connection, "reason", [reason])
            await release_named(connection, ids, vouched=True)
        return count

    async def release_records(
        self, *, reason: str | None, ids: Sequence[int], now: datetime
    ) -> int:
        """Have held records sent again: those of a reason, or those named."""
        return await self._release(
            """
            with freed as (
                select r.id, r.subscription,
                       case when coalesce(r.timestamp > p.closed_until, true)
                                 or r.sent_key is not null
                            then 'due' else 'late' end as state
                from usage_records r join item_periods p on p.id = r.item_period_id
                where r.state = 'held'
                  and (r.reason = cast(:reason as text)
                       or r.id = any(cast(:ids as bigint[]))) ),
            lanes as (
                insert into subscription_lanes as l (subscription, due_at)
                select distinct subscription, cast(:now as timestamptz) from freed order by 1
                on conflict (subscription) do update set due_at = least(l.due_at, excluded.due_at)
                returning subscription)
            update usage_records r set state = freed.state, reason = null, detail = null,
                due_at = :now, failures = 0, failed_at = null,
                unsent_since = coalesce(unsent_since, :now)
            from freed join lanes using (subscription) where r.id = freed.id
            """,
            {"reason": reason, "ids": list(ids), "now": now},
        )

    async def release_deliveries(self) -> int:
        """Have deliveries that were set aside as failed booked anew."""
        return await self._release(
            """
            update deliveries set state = 'received', faults = null, settled_at = null
            where state = 'failed'
            """,
            {},
        )

    async def _release(self, sql: str, parameters: dict[str, Any]) -> int:
        async with transaction(self._engine) as connection:
            return (await connection.execute(text(sql), parameters)).rowcount


def _record_row(row: Any) -> RecordRow:
    return RecordRow(
        **{
            **row,
            "wanted_quantity": int(row["wanted_quantity"]),
            "reported_quantity": int(row["reported_quantity"]),
        }
    )
