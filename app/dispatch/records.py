"""What is handed over in sending, and writing down what Stripe answered. SQL only, in batches.

Every call here needs the record's lane.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy.ext.asyncio import AsyncConnection

from app.dispatch.reasons import HoldReason
from app.driver import fetch
from app.stripe_client.answers import Action

# Stripe keeps a key for at least 24 hours, and no two clocks are the same.
KEY_KEPT = timedelta(hours=23)
# Between an increment's last sign of life and the look at what became of it.
DOUBT_PATIENCE = timedelta(seconds=60)


class ClaimedRecord(NamedTuple):
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


class WrittenAttempt(NamedTuple):
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


class RecordUpdate(NamedTuple):
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


_ATTEMPTS = """
    insert into attempts (usage_record_id, idempotency_key, action, quantity, started_at,
                          finished_at, outcome, problem, http_status, message, request_id,
                          replayed, worker)
    select t.record, t.key, t.action, cast(t.quantity as numeric), t.started, t.finished,
           t.outcome, t.problem, t.status, t.message, t.request, t.replayed, $13
    from unnest(cast($1 as bigint[]), cast($2 as text[]), cast($3 as text[]), cast($4 as text[]),
                cast($5 as timestamptz[]), cast($6 as timestamptz[]), cast($7 as text[]),
                cast($8 as text[]), cast($9 as int[]), cast($10 as text[]), cast($11 as text[]),
                cast($12 as boolean[]))
        as t (record, key, action, quantity, started, finished, outcome, problem, status,
              message, request, replayed)
"""


async def write_attempts(
    connection: AsyncConnection, attempts: Sequence[WrittenAttempt], *, worker: str
) -> None:
    """Add to the audit trail."""
    await fetch(
        connection,
        _ATTEMPTS,
        [a.record.id for a in attempts],
        [a.record.key for a in attempts],
        [a.record.action for a in attempts],
        [str(a.record.quantity) for a in attempts],
        [a.started_at for a in attempts],
        [a.finished_at for a in attempts],
        [a.outcome for a in attempts],
        [a.problem for a in attempts],
        [a.http_status for a in attempts],
        [a.message for a in attempts],
        [a.request_id for a in attempts],
        [a.replayed for a in attempts],
        worker,
    )


_UPDATES = """
    with t as (
        select *, cast(digits as numeric) as reported from unnest(
            cast($1 as bigint[]), cast($2 as text[]), cast($3 as boolean[]), cast($4 as text[]),
            cast($5 as text[]), cast($6 as timestamptz[]), cast($7 as boolean[]),
            cast($8 as timestamptz[]), cast($9 as text[]), cast($10 as boolean[]))
        as u (id, digits, settled, held, detail, retry_at, counted, failed_at, key, doubtful))
    update usage_records r set
        reported_quantity = coalesce(t.reported, r.reported_quantity),
        doubtful = t.reported is null and (r.doubtful or t.doubtful),
        sent_key = case when t.settled then null else coalesce(t.key, r.sent_key) end,
        sent_quantity = case when t.settled then null else r.sent_quantity end,
        sent_at = case when t.settled then null else r.sent_at end,
        sent_action = case when t.settled then null else r.sent_action end,
        compare_at = case when t.held = $11 then cast($12 as timestamptz) end,
        comparisons = 0,
        -- Stripe may repeat a stored refusal under its key, also when the cause is gone.
        key_suffix = r.key_suffix
            + (t.key is not null or (t.settled and t.reported is null))::int,
        failures = case when t.reported is not null then 0 else r.failures + t.counted::int end,
        failed_at = t.failed_at,
        state = case when t.held is not null then 'held'
                     when t.reported = r.wanted_quantity then 'reported'
                     -- Nothing newer is sent to a period that was closed meanwhile.
                     when t.reported is not null and r.timestamp <= p.closed_until then 'late'
                     else 'due' end,
        reason = t.held,
        detail = t.detail,
        due_at = case when t.held is not null or t.reported = r.wanted_quantity then null
                      else coalesce(greatest(r.due_at, t.retry_at), $13) end,
        unsent_since = case when t.reported = r.wanted_quantity then null
                            else r.unsent_since end
    from t, item_periods p where r.id = t.id and p.id = r.item_period_id
"""


async def write_updates(
    connection: AsyncConnection, updates: Sequence[RecordUpdate], *, now: datetime
) -> None:
    """Write the outcome of attempts on their records, whose lanes this transaction has locked."""
    await fetch(
        connection,
        _UPDATES,
        [u.id for u in updates],
        [None if u.reported is None else str(u.reported) for u in updates],
        [u.settled for u in updates],
        [u.held for u in updates],
        [u.detail for u in updates],
        [u.retry_at for u in updates],
        [u.counted for u in updates],
        [u.failed_at for u in updates],
        [u.key for u in updates],
        [u.doubtful for u in updates],
        HoldReason.IN_DOUBT.value,
        now + DOUBT_PATIENCE,
        now,
    )
