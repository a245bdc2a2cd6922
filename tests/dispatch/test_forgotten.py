"""A POST whose answer was lost, repeated when Stripe may know its key no more."""

from datetime import timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.clock import ManualClock
from app.db import transaction
from app.dispatch.claiming import claim_records
from app.dispatch.decide import History, decide
from app.dispatch.lanes import claim_lanes
from app.dispatch.records import KEY_KEPT, ClaimedRecord, write_updates
from app.dispatch.sending import update_of
from app.stripe_client.problems import ProblemKind
from tests.dispatch import answers
from tests.dispatch.ledger import NOW, SeededLedger

SECOND = timedelta(seconds=1)


async def claim_at(engine: AsyncEngine, ledger: SeededLedger, clock: ManualClock) -> ClaimedRecord:
    """Claim the record as a worker that takes over from a dead one."""
    await ledger.expire_leases()
    now = clock.now()
    async with transaction(engine) as connection:
        claim = await claim_lanes(connection, now=now, worker="w1", limit=1)
        [record] = await claim_records(connection, claim.leased, now=now, per_lane=5)
    return record


@pytest.mark.parametrize(
    "kind",
    [
        ProblemKind.PERIOD_CLOSED,
        ProblemKind.RESOURCE_MISSING,
        ProblemKind.TIMESTAMP_REFUSED,
        ProblemKind.UNFORESEEN,
    ],
)
@pytest.mark.parametrize(("later", "doubtful"), [(KEY_KEPT - SECOND, False), (KEY_KEPT, True)])
async def test_a_refusal_tells_nothing_once_the_key_may_be_forgotten(
    engine: AsyncEngine,
    ledger: SeededLedger,
    kind: ProblemKind,
    later: timedelta,
    doubtful: bool,
) -> None:
    """Carried on as if it had never counted, it would be billed twice."""
    await ledger.want(1, 5)
    clock = ManualClock(NOW)
    first = await claim_at(engine, ledger, clock)
    assert (first.outstanding, first.forgotten(NOW + 2 * KEY_KEPT)) == (False, False)
    clock.advance(later / 2)
    await claim_at(engine, ledger, clock)  # killed again: the key is as old as its first POST
    clock.set(NOW + later)
    again = await claim_at(engine, ledger, clock)
    assert (again.key, again.left_at) == (first.key, NOW)
    error = answers.answered(kind)
    decision = decide(error, History(0, None, None), jitter=0.0)
    update = update_of(again, error, decision, clock.now())
    assert update is not None
    assert (update.settled, update.doubtful) == (True, doubtful)
    async with transaction(engine) as connection:
        await write_updates(connection, [update], now=clock.now())
    [row] = await ledger.rows("select doubtful, sent_key, sent_at from usage_records")
    assert row == {"doubtful": doubtful, "sent_key": None, "sent_at": None}


async def test_another_key_begins_anew(engine: AsyncEngine, ledger: SeededLedger) -> None:
    await ledger.want(1, 5)
    clock = ManualClock(NOW)
    first = await claim_at(engine, ledger, clock)
    clock.advance(2 * KEY_KEPT)
    async with transaction(engine) as connection:
        update = update_of(
            first,
            answers.answered(ProblemKind.PERIOD_CLOSED),
            decide(answers.answered(ProblemKind.PERIOD_CLOSED), History(0, None, None), jitter=0.0),
            clock.now(),
        )
        assert update is not None
        assert not update.doubtful  # it left a moment ago
        await write_updates(connection, [update._replace(retry_at=None)], now=clock.now())
    await ledger.run("update usage_records set due_at = :now", now=NOW)
    await ledger.run("update subscription_lanes set due_at = :now", now=NOW)
    await claim_at(engine, ledger, clock)
    again = await claim_at(engine, ledger, clock)
    assert again.key != first.key
    assert again.left_at == clock.now()
