"""What is handed over in sending, and writing down what Stripe answered. SQL only, in batches.

Every call here needs the record's lane.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import text
from app.dispatch.reasons import HoldReason
from app.stripe_client.answers import Action

# Stripe keeps a key for at least 24 hours, and no two clocks are the same.
KEY_KEPT = timedelta(hours=23)
# Between an increment's last sign of life and the look at what became of it.
DOUBT_PATIENCE = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class ClaimedRecord:
    """A record and the POST that is to be made for it.

    `quantity` is what the record is set to or, with `increment`, what is added to it. `reported`:
    what Stripe holds before. `outstanding`: the POST may have left before this claim, and
    `left_at` when it first did.
    """

    id: int
    subscription: str
    subscription_item: str
    timestamp: int
    key: str
    quantity: int
    key_suffix: int
    failures: int
    failed_at: datetime | None
    action: Action = "set"
    reported: int = 0
    outstanding: bool = False
    left_at: datetime | None = None

    def forgotten(self, now: datetime) -> bool:
        """Whether the POST may have been executed and Stripe know its key no more.

        A refusal then says nothing of what stands there.
        """
        return self.outstanding and (self.left_at is None or now - self.left_at >= KEY_KEPT)

    @property
    def reaches(self) -> int:
        """What Stripe holds after the POST."""
        return self.quantity if self.action == "set" else self.reported + self.quantity


@dataclass(frozen=True, slots=True)
class WrittenAttempt:
    """One attempt as it goes into the audit trail."""

    record: ClaimedRecord
    started_at: datetime
    finished_at: datetime
    outcome: str
    problem: str | None
    http_status: int | None
    message: str | None
    request_id: str | None
    replayed: bool


@dataclass(frozen=True, slots=True)
class RecordUpdate:
    """What an attempt changes on its record.

    `reported`: the quantity that Stripe confirmed. `settled`: no answer is outstanding any more.
    `key`: the key that the next attempt must use where the POST is still to be settled;
    `doubtful`: the POST under the key given up for it may have been executed.
    """

    id: int
    reported: int | None = None
    settled: bool = False
    held: str | None = None
    detail: str | None = None
    retry_at: datetime | None = None
    counted: bool = False
    failed_at: datetime | None = None
    key: str | None = None
    doubtful: bool = False


async def write_attempts(
    connection: AsyncConnection, attempts: Sequence[WrittenAttempt], *, worker: str
) -> None:
    """Add to the audit trail."""
    await connection.execute(
        text(
            """
            insert into attempts (usage_record_id, idempotency_key, action, quantity, started_at,
                                  finished_at, outcome, problem, http_status, message, request_id,
                                  replayed, worker)
            select t.record, t.key, t.action, t.quantity, t.started, t.finished, t.outcome,
                   t.problem, t.status, t.message, t.request, t.replayed, :worker
            from unnest(cast(:records as bigint[]), cast(:keys as text[]),
                        cast(:quantities as numeric[]), cast(:actions as text[]),
                        cast(:started as timestamptz[]), cast(:finished as timestamptz[]),
                        cast(:outcomes as text[]), cast(:problems as text[]),
                        cast(:statuses as int[]), cast(:messages as text[]),
                        cast(:requests as text[]), cast(:replayed as boolean[]))
                as t (record, key, quantity, action, started, finished, outcome, problem, status,
                      message, request, replayed)
            """
        ),
        {
            "worker": worker,
            "records": [a.record.id for a in attempts],
            "keys": [a.record.key for a in attempts],
            "quantities": [Decimal(a.record.quantity) for a in attempts],
            "actions": [a.record.action for a in attempts],
            "started": [a.started_at for a in attempts],
            "finished": [a.finished_at for a in attempts],
            "outcomes": [a.outcome for a in attempts],
            "problems": [a.problem for a in attempts],
            "statuses": [a.http_status for a in attempts],
            "messages": [a.message for a in attempts],
            "requests": [a.request_id for a in attempts],
            "replayed": [a.replayed for a in attempts],
        },
    )


async def write_updates(
    connection: AsyncConnection, updates: Sequence[RecordUpdate], *, now: datetime
) -> None:
    """Write the outcome of attempts on their records, whose lanes this transaction has locked."""
    await connection.execute(
        text(
            """
            with t as (
                select * from unnest(
                    cast(:ids as bigint[]), cast(:reported as numeric[]),
                    cast(:settled as boolean[]), cast(:held as text[]), cast(:detail as text[]),
                    cast(:retry_at as timestamptz[]), cast(:counted as boolean[]),
                    cast(:failed_at as timestamptz[]), cast(:keys as text[]),
                    cast(:doubtful as boolean[]))
                as u (id, reported, settled, held, detail, retry_at, counted, failed_at, key,
                      doubtful))
            update usage_records r set
                reported_quantity = coalesce(t.reported, r.reported_quantity),
                doubtful = t.reported is null and (r.doubtful or t.doubtful),
                sent_key = case when t.settled then null else coalesce(t.key, r.sent_key) end,
                sent_quantity = case when t.settled then null else r.sent_quantity end,
                sent_at = case when t.settled then null else r.sent_at end,
                sent_action = case when t.settled then null else r.sent_action end,
                compare_at = case when t.held = :in_doubt
                                  then cast(:compare_at as timestamptz) end,
                comparisons = 0,
                -- Stripe may repeat a stored refusal under its key, also when the cause is gone.
                key_suffix = r.key_suffix
                    + (t.key is not null or (t.settled and t.reported is null))::int,
                failures = case when t.reported is not null then 0
                                else r.failures + t.counted::int end,
                failed_at = t.failed_at,
                state = case when t.held is not null then 'held'
                             when t.reported = r.wanted_quantity then 'reported'
                             -- Nothing newer is sent to a period that was closed meanwhile.
                             when t.reported is not null and r.timestamp <= p.closed_until
                                 then 'late'
                             else 'due' end,
                reason = t.held,
                detail = t.detail,
                due_at = case when t.held is not null or t.reported = r.wanted_quantity then null
                              else coalesce(greatest(r.due_at, t.retry_at), :now) end,
                unsent_since = case when t.reported = r.wanted_quantity then null
                                    else r.unsent_since end
            from t, item_periods p where r.id = t.id and p.id = r.item_period_id
            """
        ),
        {
            "in_doubt": HoldReason.IN_DOUBT.value,
            "compare_at": now + DOUBT_PATIENCE,
            "ids": [u.id for u in updates],
            "reported": [None if u.reported is None else Decimal(u.reported) for u in updates],
            "settled": [u.settled for u in updates],
            "held": [u.held for u in updates],
            "detail": [u.detail for u in updates],
            "retry_at": [u.retry_at for u in updates],
            "counted": [u.counted for u in updates],
            "failed_at": [u.failed_at for u in updates],
            "keys": [u.key for u in updates],
            "doubtful": [u.doubtful for u in updates],
            "now": now,
        },
    )
