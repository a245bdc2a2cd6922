"""Writing down: what each verdict leaves on the record, and what a late answer may not change."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.clock import ManualClock
from app.db import transaction
from app.dispatch.decide import Decision, History, decide
from app.dispatch.lanes import Lane
from app.dispatch.line import stop_line, take_probe
from app.dispatch.reasons import HoldReason, StopReason
from app.dispatch.records import ClaimedRecord, RecordUpdate, WrittenAttempt
from app.dispatch.sending import Outcome, update_of
from app.dispatch.writing import Finished, OutcomeWriter
from app.errors import StatementTimeout
from app.stripe_client.errors import StripeError
from app.stripe_client.problems import ProblemKind
from tests.dispatch import answers
from tests.dispatch.ledger import NOW, SeededLedger
from tests.dispatch.test_lanes import claim

LATER = NOW + timedelta(seconds=3)


def succeeded(record: ClaimedRecord) -> Outcome:
    return Outcome(
        _attempt(record, "succeeded"),
        RecordUpdate(record.id, reported=record.quantity, settled=True),
        None,
        None,
    )


def failed(record: ClaimedRecord, error: StripeError, history: History | None = None) -> Outcome:
    history = history or History(record.failures, record.failed_at, None)
    decision: Decision = decide(error, history, jitter=0.0)
    update = update_of(record, error, decision, LATER)
    return Outcome(_attempt(record, decision.verdict.value), update, decision, error)


def _attempt(record: ClaimedRecord, outcome: str) -> WrittenAttempt:
    return WrittenAttempt(record, NOW, LATER, outcome, None, 200, None, "req_1", replayed=False)


async def write(engine: AsyncEngine, *finished: Finished) -> None:
    """Have lanes written down, in one batch."""
    writer = OutcomeWriter(engine, ManualClock(LATER), worker="w1")
    for lane in finished:
        writer.put(lane)
    task = asyncio.create_task(writer.run())
    await asyncio.wait_for(asyncio.gather(*(lane.written.wait() for lane in finished)), 20)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def claimed(engine: AsyncEngine, worker: str = "w1") -> tuple[Lane, ClaimedRecord]:
    # Not before a turn that another answer ended a moment ago.
    [lane] = await claim(engine, worker=worker, now=LATER)
    [record] = lane.records
    return lane, record


async def test_a_success_reports_and_settles(engine: AsyncEngine, ledger: SeededLedger) -> None:
    await ledger.want(1, 5)
    lane, record = await claimed(engine)
    await write(engine, Finished(lane, [succeeded(record)]))
    after = await ledger.record(1)
    assert (after.state, after.wanted, after.reported) == ("reported", 5, 5)
    assert (after.sent_key, after.due_at, after.unsent_since) == (None, None, None)
    assert [attempt["key"] for attempt in await ledger.attempts()] == [record.key]


async def test_a_change_in_flight_is_sent_next_under_another_key(
    engine: AsyncEngine, ledger: SeededLedger
) -> None:
    await ledger.want(1, 5)
    lane, record = await claimed(engine)
    await ledger.want(1, 7)
    await write(engine, Finished(lane, [succeeded(record)]))
    between = await ledger.record(1)
    assert (between.state, between.wanted, between.reported) == ("due", 7, 5)
    assert between.unsent_since is not None
    _, following = await claimed(engine)
    assert following.quantity == 7
    assert following.key != record.key


async def test_a_change_back_in_flight_is_sent_too(
    engine: AsyncEngine, ledger: SeededLedger
) -> None:
    """5 stands, 7 is on its way, 5 is wanted again: equal to what was reported, but not done.

    All for one delivery (its meter's scale was mapped otherwise, twice): three keys all the same.
    """
    await ledger.want(1, 5, svix_id="msg_a")
    lane, first = await claimed(engine)
    await write(engine, Finished(lane, [succeeded(first)]))
    await ledger.want(1, 7, svix_id="msg_a")
    lane, second = await claimed(engine)
    await ledger.want(1, 5, svix_id="msg_a")
    await write(engine, Finished(lane, [succeeded(second)]))
    _, third = await claimed(engine)
    assert [first.quantity, second.quantity, third.quantity] == [5, 7, 5]
    assert len({first.key, second.key, third.key}) == 3


TRANSIENT: dict[str, StripeError] = {
    "cut": answers.cut(),
    "never connected": answers.never_connected(),
    "malformed": answers.malformed(),
    "500": answers.answered(ProblemKind.SERVER_ERROR),
    "lock": answers.answered(ProblemKind.LOCK_TIMEOUT),
    "limiter": answers.answered(ProblemKind.RATE_LIMITED),
    "key in use": answers.answered(ProblemKind.IDEMPOTENCY_IN_USE),
}


@pytest.mark.parametrize("error", TRANSIENT.values(), ids=TRANSIENT)
async def test_a_retry_keeps_key_and_quantity(
    engine: AsyncEngine, ledger: SeededLedger, error: StripeError
) -> None:
    await ledger.want(1, 5)
    lane, record = await claimed(engine)
    await ledger.want(1, 7)
    await write(engine, Finished(lane, [failed(record, error)]))
    after = await ledger.record(1)
    assert (after.state, after.reason, after.failures) == ("due", None, 0)
    assert (after.sent_key, after.sent_quantity, after.reported) == (record.key, 5, 0)
    assert after.due_at is not None
    assert after.due_at > LATER
    assert after.failed_at == LATER


async def test_a_stored_500_goes_on_under_a_new_key(
    engine: AsyncEngine, ledger: SeededLedger
) -> None:
    await ledger.want(1, 5)
    lane, record = await claimed(engine)
    stored = answers.answered(ProblemKind.SERVER_ERROR, replayed=True)
    await write(engine, Finished(lane, [failed(record, stored)]))
    after = await ledger.record(1)
    assert after.sent_key == f"{record.key}~1"
    assert (after.sent_quantity, after.key_suffix) == (5, 1)


async def test_a_counted_failure_counts_and_a_success_forgets_it(
    engine: AsyncEngine, ledger: SeededLedger
) -> None:
    await ledger.want(1, 5)
    lane, record = await claimed(engine)
    counted = History(0, NOW - timedelta(seconds=2), NOW - timedelta(seconds=1))
    conflict = answers.answered(ProblemKind.CONFLICT)
    await write(engine, Finished(lane, [failed(record, conflict, counted)]))
    assert (await ledger.record(1)).failures == 1
    await ledger.run("update usage_records set due_at = :now", now=NOW)
    await ledger.run("update subscription_lanes set due_at = :now", now=NOW)
    lane, record = await claimed(engine)
    assert (record.failures, record.failed_at) == (1, LATER)
    await write(engine, Finished(lane, [succeeded(record)]))
    after = await ledger.record(1)
    assert (after.failures, after.failed_at, after.state) == (0, None, "reported")


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (ProblemKind.TIMESTAMP_REFUSED, HoldReason.TIMESTAMP_REFUSED),
        (ProblemKind.INVALID_INTEGER, HoldReason.QUANTITY_REFUSED),
        (ProblemKind.UNFORESEEN, HoldReason.UNFORESEEN_ANSWER),
    ],
)
async def test_a_refusal_holds_and_leaves_nothing_outstanding(
    engine: AsyncEngine, ledger: SeededLedger, kind: ProblemKind, reason: HoldReason
) -> None:
    await ledger.want(1, 5)
    lane, record = await claimed(engine)
    await write(engine, Finished(lane, [failed(record, answers.answered(kind))]))
    after = await ledger.record(1)
    assert (after.state, after.reason, after.due_at) == ("held", reason.value, None)
    assert after.detail is not None
    assert "as Stripe says it" in after.detail
    assert after.sent_key is None
    assert after.unsent_since is not None
    assert await claim(engine) == []


async def test_a_closed_period_leaves_nothing_outstanding_for_whoever_resolves_it(
    engine: AsyncEngine, ledger: SeededLedger
) -> None:
    await ledger.want(1, 5)
    lane, record = await claimed(engine)
    outcome = failed(record, answers.answered(ProblemKind.PERIOD_CLOSED))
    assert outcome.decision is not None
    assert outcome.decision.hold is HoldReason.PERIOD_CLOSED
    await write(engine, Finished(lane, [outcome]))
    after = await ledger.record(1)
    assert (after.state, after.sent_key, after.key_suffix) == ("due", None, 1)
    assert after.due_at is not None
    assert after.due_at > LATER  # not sent again before it is resolved


async def test_an_exhausted_record_in_doubt_stays_outstanding(
    engine: AsyncEngine, ledger: SeededLedger
) -> None:
    await ledger.want(1, 5)
    lane, record = await claimed(engine)
    history = History(99, NOW - timedelta(seconds=2), NOW - timedelta(seconds=1))
    error = answers.answered(ProblemKind.SERVER_ERROR)
    await write(engine, Finished(lane, [failed(record, error, history)]))
    after = await ledger.record(1)
    assert (after.state, after.reason) == ("held", "attempts_exhausted")
    assert (after.sent_key, after.sent_quantity) == (record.key, 5)


async def test_what_is_held_stays_held_when_the_wanted_quantity_changes(
    engine: AsyncEngine, ledger: SeededLedger
) -> None:
    await ledger.want(1, 5)
    lane, record = await claimed(engine)
    await write(engine, Finished(lane, [failed(record, answers.answered(ProblemKind.UNFORESEEN))]))
    await ledger.want(1, 7)
    assert (await ledger.record(1)).state == "held"
    [lane] = await claim(engine)  # the change made it due; there is nothing in it to send
    assert lane.records == ()
    await ledger.want(1, 0)  # equal to what Stripe holds: nothing is left to send
    assert (await ledger.record(1)).state == "reported"


async def test_a_stop_of_the_line_leaves_the_record_as_it_is(
    engine: AsyncEngine, ledger: SeededLedger
) -> None:
    await ledger.want(1, 5)
    lane, record = await claimed(engine)
    before = await ledger.record(1)
    refused = answers.answered(ProblemKind.KEY_REFUSED)
    await write(engine, Finished(lane, [failed(record, refused)]))
    assert await ledger.record(1) == before
    line = await ledger.line()
    assert (line["stopped"], line["reason"], line["since"]) == (True, "key_refused", LATER)
    assert [attempt["outcome"] for attempt in await ledger.attempts()] == ["line_stopped"]


async def test_a_late_answer_of_a_lost_lease_is_only_audited(
    engine: AsyncEngine, ledger: SeededLedger
) -> None:
    await ledger.want(1, 5)
    lane, record = await claimed(engine)
    await ledger.expire_leases()
    taken, again = await claimed(engine, worker="w2")
    before = await ledger.record(1)
    await write(engine, Finished(lane, [succeeded(record)]))
    assert await ledger.record(1) == before
    assert [attempt["key"] for attempt in await ledger.attempts()] == [record.key]
    assert await claim(engine, worker="w3") == []  # the new holder's lease stands
    await write(engine, Finished(taken, [succeeded(again)]))
    assert (await ledger.record(1)).state == "reported"


async def test_a_late_answer_beside_our_own_new_lease_is_only_audited(
    engine: AsyncEngine, ledger: SeededLedger
) -> None:
    """The same process lost the lane, has it again, and writes both answers in one batch."""
    await ledger.want(1, 5)
    old, first = await claimed(engine)
    await ledger.expire_leases()
    new, second = await claimed(engine)
    refused = answers.answered(ProblemKind.UNFORESEEN)
    await write(engine, Finished(old, [failed(first, refused)]), Finished(new, [succeeded(second)]))
    after = await ledger.record(1)
    assert (after.state, after.reported, after.reason) == ("reported", 5, None)
    assert len(await ledger.attempts()) == 2


async def test_writing_twice_changes_nothing_twice(
    engine: AsyncEngine, ledger: SeededLedger
) -> None:
    """A commit whose answer was lost is written again, after the lease has ended with it."""
    await ledger.want(1, 5)
    lane, record = await claimed(engine)
    counted = History(0, NOW - timedelta(seconds=2), NOW - timedelta(seconds=1))
    outcome = failed(record, answers.answered(ProblemKind.CONFLICT), counted)
    await write(engine, Finished(lane, [outcome]))
    before = await ledger.record(1)
    await write(engine, Finished(lane, [outcome]))
    assert await ledger.record(1) == before


async def test_a_probe_that_sent_nothing_is_handed_back_beside_other_answers(
    engine: AsyncEngine, ledger: SeededLedger
) -> None:
    """A worker that stops has taken the probe; without it nobody probes for a minute."""
    await ledger.want(1, 5)
    await ledger.want(2, 5)
    straggler, probe = await claim(engine)
    async with transaction(engine) as connection:
        await stop_line(connection, StopReason.STRIPE_UNAVAILABLE, "", now=NOW)
        assert await take_probe(connection, now=NOW + timedelta(seconds=1))
    [late] = straggler.records
    await write(
        engine,
        Finished(straggler, [succeeded(late)]),
        Finished(replace(probe, probe=True), []),
    )
    line = await ledger.line()
    assert (line["stopped"], line["probe_at"]) == (True, LATER)


async def test_a_batch_that_takes_too_long_is_written_in_parts(
    engine: AsyncEngine, ledger: SeededLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same statement again and again would never end, and all answers behind it wait."""
    sizes = []
    written = OutcomeWriter._write

    async def slow(self: OutcomeWriter, batch: Sequence[Finished]) -> None:
        sizes.append(len(batch))
        if len(batch) > 1:
            raise StatementTimeout
        await written(self, batch)

    monkeypatch.setattr(OutcomeWriter, "_write", slow)
    for number in range(1, 5):
        await ledger.want(number, 5)
    lanes = await claim(engine)
    await write(engine, *(Finished(lane, [succeeded(lane.records[0])]) for lane in lanes))
    assert sizes == [4, 2, 1, 1, 2, 1, 1]
    assert await ledger.backlog() == 0


async def test_a_lane_with_nothing_left_wakes_nobody(
    engine: AsyncEngine, ledger: SeededLedger
) -> None:
    await ledger.want(1, 5)
    lane, record = await claimed(engine)
    finished = Finished(lane, [succeeded(record)])
    await write(engine, finished)
    assert not finished.due_again
    await ledger.want(1, 6)
    lane, _ = await claimed(engine)
    finished = Finished(lane, [], list(lane.records))
    await write(engine, finished)
    assert finished.due_again
