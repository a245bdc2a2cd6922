"""One attempt: POST a claimed record, and what its answer changes. Pure but for the POST."""

import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import NamedTuple

from app.clock import Clock
from app.dispatch.decide import Decision, History, Verdict, decide, not_sent
from app.dispatch.keys import next_key
from app.dispatch.reasons import HoldReason, StopReason
from app.dispatch.records import ClaimedRecord, RecordUpdate, WrittenAttempt
from app.stripe_client import StripeAnswered, StripeClient, StripeError, UsageRecordAnswer

logger = logging.getLogger(__name__)


class Outcome(NamedTuple):
    """An attempt and what follows. `decision` is None where it succeeded.

    `ends_outage_run`: it is the last of so many failures in a row that Stripe itself is down.
    """

    attempt: WrittenAttempt
    update: RecordUpdate | None
    decision: Decision | None
    error: StripeError | None
    ends_outage_run: bool = False

    @property
    def stop(self) -> StopReason | None:
        """Why the line stops after it, if it does."""
        if self.decision is not None and self.decision.verdict is Verdict.STOP_LINE:
            return self.decision.stop
        return StopReason.STRIPE_UNAVAILABLE if self.ends_outage_run else None


async def attempt(
    client: StripeClient,
    record: ClaimedRecord,
    *,
    clock: Clock,
    last_success: datetime | None,
    in_a_row: int,
    jitter: Callable[[], float],
    look_first: bool = False,
) -> Outcome:
    """POST the record once. Whatever comes of it is an outcome; only a cancellation is raised.

    `look_first`: Stripe is in trouble. An increment then leaves only after a small read went
    through: what fails as a probe would be in doubt, one record after the other.
    """
    started = clock.now()
    sent = False
    try:
        if look_first and record.action == "increment":
            await client.probe()
        sent = True
        answer = await client.post_usage_record(
            subscription_item=record.subscription_item,
            quantity=record.quantity,
            timestamp=record.timestamp,
            action=record.action,
            idempotency_key=record.key,
        )
    except StripeError as error:
        decision = not_sent(error)
        if sent:
            history = History(record.failures, record.failed_at, last_success, in_a_row)
            decision = decide(error, history, jitter=jitter(), action=record.action)
        return _failed(record, error, decision, started, clock.now())
    except Exception as error:
        # A defect of ours, or an argument the client refuses. Raised on, the record would be
        # claimed again at once, for ever; held, it is shown, and the others go on.
        logger.exception("usage record %d could not be sent", record.id)
        return _unsendable(record, error, started, clock.now(), sent=sent)
    return _succeeded(record, answer, started, clock.now())


def _succeeded(
    record: ClaimedRecord, answer: UsageRecordAnswer, started: datetime, finished: datetime
) -> Outcome:
    written = WrittenAttempt(
        record,
        started,
        finished,
        "succeeded",
        None,
        answer.meta.status,
        None,
        answer.meta.request_id,
        answer.meta.idempotent_replayed,
    )
    update = RecordUpdate(record.id, reported=record.reaches, settled=True)
    return Outcome(written, update, None, None)


def _unsendable(
    record: ClaimedRecord, error: Exception, started: datetime, finished: datetime, *, sent: bool
) -> Outcome:
    detail = f"{type(error).__name__}: {error}"[:500]
    # The client raises these two before anything leaves; after any other the POST is in doubt.
    settled = not sent or isinstance(error, ValueError | TypeError)
    doubt = record.action == "increment" and not settled
    hold = HoldReason.IN_DOUBT if doubt else HoldReason.UNFORESEEN_ANSWER
    written = WrittenAttempt(
        record, started, finished, Verdict.HOLD.value, None, None, detail, None, replayed=False
    )
    update = RecordUpdate(
        record.id, settled=settled, held=hold.value, detail=detail, failed_at=finished
    )
    return Outcome(written, update, Decision(Verdict.HOLD, hold=hold), None)


def _failed(
    record: ClaimedRecord,
    error: StripeError,
    decision: Decision,
    started: datetime,
    finished: datetime,
) -> Outcome:
    answered = error if isinstance(error, StripeAnswered) else None
    written = WrittenAttempt(
        record,
        started,
        finished,
        decision.verdict.value,
        answered.kind.value if answered else type(error).__name__,
        error.meta.status if error.meta else None,
        answered.message if answered else error.detail,
        error.request_id,
        error.meta.idempotent_replayed if error.meta else False,
    )
    return Outcome(written, update_of(record, error, decision, finished), decision, error)


def update_of(
    record: ClaimedRecord, error: StripeError, decision: Decision, now: datetime
) -> RecordUpdate | None:
    """What a failed attempt changes on its record; nothing where the line is stopped."""
    if record.action == "increment":
        return _update_of_increment(record, error, decision, now)
    if decision.verdict is Verdict.STOP_LINE:
        return None
    if decision.verdict is Verdict.HOLD:
        return RecordUpdate(
            record.id,
            # In doubt, the POST stays outstanding: a release settles it before anything newer.
            settled=not error.in_doubt,
            held=decision.hold.value if decision.hold else None,
            detail=str(error)[:500],
            counted=decision.counted,
            failed_at=now,
            doubtful=record.forgotten(now),
        )
    return RecordUpdate(
        record.id,
        # A definite refusal leaves nothing outstanding; the windows may go elsewhere.
        settled=decision.verdict is Verdict.RESOLVE and not error.in_doubt,
        retry_at=now + timedelta(seconds=decision.delay),
        counted=decision.counted,
        failed_at=now,
        detail=str(error)[:500],
        key=next_key(record.key, record.key_suffix + 1)
        if decision.verdict is Verdict.NEW_KEY
        else None,
        doubtful=(decision.verdict is Verdict.NEW_KEY and error.in_doubt)
        or (decision.verdict is Verdict.RESOLVE and record.forgotten(now)),
    )


def _update_of_increment(
    record: ClaimedRecord, error: StripeError, decision: Decision, now: datetime
) -> RecordUpdate:
    """In doubt, the increment stays outstanding and the record held. Otherwise it was certainly not
    executed: the next attempt carries what the difference is by then, under a key of its own."""
    stopped = decision.verdict is Verdict.STOP_LINE and decision.hold is None
    return RecordUpdate(
        record.id,
        settled=decision.hold is not HoldReason.IN_DOUBT,
        held=decision.hold.value
        if decision.hold and decision.verdict is not Verdict.RESOLVE
        else None,
        detail=None if stopped else str(error)[:500],
        retry_at=now + timedelta(seconds=decision.delay),
        counted=decision.counted,
        failed_at=record.failed_at if stopped else now,
    )
