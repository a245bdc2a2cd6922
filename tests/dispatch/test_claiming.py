"""Which POST leaves for a due record, and what must not leave: a table, then on the database."""

from datetime import timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db import transaction
from app.dispatch.claiming import (
    LOST_ANSWER_PATIENCE,
    DueRecord,
    Withheld,
    what_leaves,
    withdraw_claims,
)
from app.dispatch.comparing import MOST_COMBINED
from app.dispatch.keys import idempotency_key
from app.dispatch.reasons import HoldReason
from app.dispatch.records import ClaimedRecord
from tests.dispatch.ledger import AT, NOW, SeededLedger
from tests.dispatch.test_lanes import claim, one

DUE = DueRecord(
    id=7,
    subscription="sub_1",
    subscription_item="si_1",
    timestamp=AT,
    svix_id="msg_a",
    revision=3,
    wanted=10,
    reported=4,
    increment=False,
    doubtful=False,
    sent_key=None,
    sent_quantity=0,
    sent_increment=False,
    key_suffix=0,
    failures=0,
    failed_at=None,
)
ADDED = DUE._replace(increment=True)

# action, quantity, what Stripe holds afterwards, whether it may have left before
LEAVES: dict[str, tuple[DueRecord, tuple[str, int, int, bool]]] = {
    "a set": (DUE, ("set", 10, 10, False)),
    "a set downward": (DUE._replace(wanted=1), ("set", 1, 1, False)),
    "a set that is doubtful": (DUE._replace(doubtful=True), ("set", 10, 10, False)),
    "a set that was sent": (DUE._replace(sent_key="k", sent_quantity=6), ("set", 6, 6, True)),
    "a difference": (ADDED, ("increment", 6, 10, False)),
    "all of it": (ADDED._replace(reported=0), ("increment", 10, 10, False)),
    "a set that was sent before thresholds": (
        ADDED._replace(sent_key="k", sent_quantity=6),
        ("set", 6, 6, True),
    ),
}
WITHHELD: dict[str, tuple[DueRecord, HoldReason | None, str]] = {
    "nothing left": (ADDED._replace(wanted=4), None, ""),
    "too much stands": (ADDED._replace(wanted=1), HoldReason.NEGATIVE_INCREMENT, "3 units"),
    "all is too much": (ADDED._replace(wanted=0), HoldReason.NEGATIVE_INCREMENT, "4 units"),
    "what stands is unknown": (ADDED._replace(doubtful=True), HoldReason.OUTCOME_IN_DOUBT, "4"),
    "an increment was sent": (
        ADDED._replace(sent_key="k", sent_quantity=6, sent_increment=True),
        HoldReason.IN_DOUBT,
        "increment of 6",
    ),
    "an increment was sent before the record was one of set": (
        DUE._replace(sent_key="k", sent_quantity=6, sent_increment=True),
        HoldReason.IN_DOUBT,
        "increment of 6",
    ),
}


@pytest.mark.parametrize(("due", "expected"), LEAVES.values(), ids=LEAVES)
def test_what_leaves(due: DueRecord, expected: tuple[str, int, int, bool]) -> None:
    found = what_leaves(due)
    assert isinstance(found, ClaimedRecord)
    assert (found.action, found.quantity, found.reaches, found.outstanding) == expected
    assert (found.key == "k") == (due.sent_key == "k")


@pytest.mark.parametrize(("due", "reason", "said"), WITHHELD.values(), ids=WITHHELD)
def test_what_must_not_leave(due: DueRecord, reason: HoldReason | None, said: str) -> None:
    found = what_leaves(due)
    assert isinstance(found, Withheld)
    assert (found.id, found.reason) == (7, reason)
    assert said in (found.detail or "")


def test_the_key_names_action_difference_and_revision() -> None:
    due = [
        DUE,
        DUE._replace(wanted=6, reported=0),
        ADDED._replace(wanted=6, reported=0),
        ADDED,
        ADDED._replace(wanted=11),
        ADDED._replace(revision=4),
        ADDED._replace(key_suffix=1),
    ]
    keys = [found.key for d in due if isinstance(found := what_leaves(d), ClaimedRecord)]
    assert len(keys) == len(due)
    # The same difference of the same revision is the same increment.
    assert keys[2] == keys[3]
    assert len(set(keys)) == len(due) - 1


async def test_a_claim_writes_down_the_difference(
    engine: AsyncEngine, ledger: SeededLedger
) -> None:
    await ledger.want(1, 5, svix_id="msg_a", increment=True)
    await ledger.run("update usage_records set reported_quantity = 2")
    record = one(await claim(engine))
    assert (record.action, record.quantity, record.reported) == ("increment", 3, 2)
    assert record.key == idempotency_key("msg_a", "si_1", AT, 1, 3, increment=True)
    written = await ledger.record(1)
    assert (written.sent_action, written.sent_quantity) == ("increment", 3)


async def test_a_turn_has_no_more_increments_than_totals_tell_apart(
    engine: AsyncEngine, ledger: SeededLedger
) -> None:
    """Each that is claimed is in doubt after a kill; of a `set` that is none."""
    for second in range(20):
        await ledger.want(1, 5, at=AT + second, increment=True)
        await ledger.want(2, 5, at=AT + second)
    added, put = sorted(await claim(engine, per_lane=20), key=lambda lane: lane.subscription)
    assert len(put.records) == 20
    assert 0 < len(added.records) <= MOST_COMBINED
    left = await ledger.rows("select 1 from usage_records where increment and sent_key is null")
    assert len(left) == 20 - len(added.records)


async def test_of_a_turn_what_may_have_left_already_goes_first(
    engine: AsyncEngine, ledger: SeededLedger
) -> None:
    """It was tried again later than what came meanwhile became due."""
    for second in range(4):
        await ledger.want(1, 5, at=AT + second, now=NOW - timedelta(minutes=4 - second))
    await ledger.run(
        "update usage_records set sent_key = 'k', sent_quantity = 4, sent_action = 'set' "
        "where timestamp = :at",
        at=AT + 2,
    )
    [lane] = await claim(engine)
    assert [record.timestamp - AT for record in lane.records] == [2, 0, 1, 3]


async def test_an_increment_is_never_claimed_twice(
    engine: AsyncEngine, ledger: SeededLedger
) -> None:
    """The worker died: whether the POST left is not known."""
    await ledger.want(1, 5, increment=True)
    first = one(await claim(engine))
    await ledger.want(1, 7)
    await ledger.expire_leases()
    [lane] = await claim(engine, worker="w2")
    assert lane.records == ()
    after = await ledger.record(1)
    assert (after.state, after.reason, after.due_at) == ("held", "in_doubt", None)
    assert (after.sent_key, after.sent_quantity) == (first.key, 5)
    assert after.compare_at == NOW + LOST_ANSWER_PATIENCE
    assert await claim(engine, worker="w3") == []


async def test_what_is_not_sent_does_not_stay_due(
    engine: AsyncEngine, ledger: SeededLedger
) -> None:
    for second, reported in enumerate((5, 8)):
        await ledger.want(1, 5, at=AT + second, increment=True)
        await ledger.run(
            "update usage_records set reported_quantity = :reported where timestamp = :at",
            reported=reported,
            at=AT + second,
        )
    [lane] = await claim(engine)
    assert lane.records == ()
    equal, above = await ledger.record(1), await ledger.record(1, at=AT + 1)
    assert (equal.state, equal.due_at, equal.unsent_since) == ("reported", None, None)
    assert (above.state, above.reason) == ("held", "negative_increment")
    assert "3 units" in (above.detail or "")
    assert above.compare_at is None
    assert await ledger.backlog() == 0


async def test_a_claim_for_which_nothing_left_is_taken_back(
    engine: AsyncEngine, ledger: SeededLedger
) -> None:
    await ledger.want(1, 5, increment=True)
    await ledger.want(1, 6, at=AT + 1)
    await ledger.want(1, 7, at=AT + 2)
    await ledger.run(
        "update usage_records set sent_key = 'k', sent_quantity = 4, sent_action = 'set' "
        "where timestamp = :at",
        at=AT + 2,
    )
    [lane] = await claim(engine)
    async with transaction(engine) as connection:
        await withdraw_claims(connection, lane.records)
    added, fresh, outstanding = [await ledger.record(1, at=AT + second) for second in range(3)]
    assert (added.sent_key, added.sent_quantity, added.sent_action) == (None, None, None)
    assert (fresh.sent_key, fresh.state) == (None, "due")
    # That one may have left before this claim: it is still to be settled.
    assert (outstanding.sent_key, outstanding.sent_quantity) == ("k", 4)
