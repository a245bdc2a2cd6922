"""Comparing with Stripe's totals: when it tells, when not, and how often it reads."""

from datetime import timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.clock import ManualClock
from app.db import transaction
from app.dispatch import doubt_records as store
from app.dispatch.doubt import Settler
from app.dispatch.doubt_records import MOST_COMPARISONS
from app.dispatch.line import stop_line
from app.dispatch.reasons import StopReason
from app.stripe_client import StripeClient
from tests.dispatch.ledger import AT, NOW, SeededLedger
from tests.dispatch.stripe_side import StripeSide
from tests.dispatch.test_increments import settler
from tests.dispatch.test_lanes import claim

GET = {"operation": "list_usage_record_summaries"}
LATER = timedelta(minutes=5)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


@pytest.fixture
def looking(engine: AsyncEngine, client: StripeClient, clock: ManualClock) -> Settler:
    return settler(engine, client, clock)


async def put_in_doubt(engine: AsyncEngine, ledger: SeededLedger, **quantities: int) -> None:
    """Records of `si_1` whose increments were claimed by a worker that died: second -> units."""
    for second, quantity in quantities.items():
        await ledger.want(1, quantity, at=AT + int(second[1:]), increment=True)
    for worker in ("dead", "alive"):
        await claim(engine, worker=worker, per_lane=99)
        await ledger.expire_leases()


def reads(stripe: StripeSide) -> int:
    """How often the summaries were read."""
    operations = stripe.control("GET", "/requests")["operations"]
    found = operations.get(GET["operation"], {"by_status": {}})["by_status"]
    return sum(found.values())


async def post(client: StripeClient, quantity: int, *, at: int = AT, item: str = "si_1") -> None:
    await client.post_usage_record(
        subscription_item=item,
        quantity=quantity,
        timestamp=at,
        action="increment",
        idempotency_key=f"other-{item}-{at}-{quantity}",
    )


async def test_a_strange_total_stays_held_with_both_figures(
    engine: AsyncEngine,
    ledger: SeededLedger,
    client: StripeClient,
    stripe: StripeSide,
    clock: ManualClock,
    looking: Settler,
) -> None:
    await put_in_doubt(engine, ledger, s0=50)
    await post(client, 17, at=AT + 5)  # another system reports to the item as well
    clock.advance(LATER)
    assert await looking.look() == []
    held = await ledger.record(1)
    assert (held.state, held.reason, held.sent_quantity) == ("held", "in_doubt", 50)
    for figure in ("17", "0 without", "50 with"):
        assert figure in (held.detail or "")
    assert held.comparisons == 1
    # Ever more rarely, and in the end no more.
    for _ in range(200):
        clock.advance(timedelta(hours=1))
        assert await looking.look() == []
    assert reads(stripe) == MOST_COMPARISONS
    assert (await ledger.record(1)).compare_at is None


async def test_it_is_settled_when_the_total_comes_right(
    engine: AsyncEngine,
    ledger: SeededLedger,
    client: StripeClient,
    stripe: StripeSide,
    clock: ManualClock,
    looking: Settler,
) -> None:
    """The summaries may lag behind; the first look costs nothing but time."""
    await put_in_doubt(engine, ledger, s0=50)
    await post(client, 17)
    clock.advance(LATER)
    assert await looking.look() == []
    await post(client, 33)
    clock.advance(LATER)
    assert await looking.look() == []  # not so soon again
    clock.advance(timedelta(minutes=10))
    [settled] = await looking.look()
    assert (settled.executed, settled.reported, settled.state) == (True, 50, "reported")
    assert reads(stripe) == 2


async def test_several_in_doubt_are_told_apart_by_their_sum(
    engine: AsyncEngine,
    ledger: SeededLedger,
    client: StripeClient,
    clock: ManualClock,
    looking: Settler,
) -> None:
    await put_in_doubt(engine, ledger, s0=1, s1=2, s2=4)
    await post(client, 1)
    await post(client, 4, at=AT + 2)
    clock.advance(LATER)
    settled = await looking.look()
    assert sorted((s.reported, s.executed) for s in settled) == [(0, False), (1, True), (4, True)]
    assert [(await ledger.record(1, at=AT + n)).state for n in range(3)] == [
        "reported",
        "due",
        "reported",
    ]


async def test_two_of_one_size_are_left_to_an_operator(
    engine: AsyncEngine,
    ledger: SeededLedger,
    client: StripeClient,
    clock: ManualClock,
    looking: Settler,
) -> None:
    await put_in_doubt(engine, ledger, s0=5, s1=5)
    await post(client, 5)
    clock.advance(LATER)
    assert await looking.look() == []
    async with transaction(engine) as connection:
        first = (await ledger.record(1)).id
        told = await store.settle_doubt(connection, first, executed=True, now=clock.now())
        assert told is not None
        assert await store.settle_doubt(connection, first, executed=False, now=clock.now()) is None
    # With the first one known, the total tells of the second.
    clock.advance(timedelta(minutes=10))
    [settled] = await looking.look()
    assert (settled.executed, settled.state) == (False, "due")


SPOILED = {
    "a set that is outstanding": "sent_key = 'k', sent_quantity = 3, sent_action = 'set'",
    "an abandoned key": "doubtful = true",
    "held in doubt for another reason": "sent_key = 'k', sent_quantity = 3, state = 'held', "
    "reason = 'attempts_exhausted', due_at = null",
}


@pytest.mark.parametrize("beside", SPOILED.values(), ids=SPOILED)
async def test_nothing_is_decided_beside_another_unknown(
    engine: AsyncEngine, ledger: SeededLedger, clock: ManualClock, looking: Settler, beside: str
) -> None:
    await put_in_doubt(engine, ledger, s0=5)
    await ledger.want(1, 3, at=AT + 1)
    await ledger.run(f"update usage_records set {beside} where timestamp = :at", at=AT + 1)
    clock.advance(LATER)
    assert await looking.look() == []
    assert "outstanding" in ((await ledger.record(1)).detail or "")


async def test_what_is_still_fresh_is_waited_for(
    engine: AsyncEngine,
    ledger: SeededLedger,
    stripe: StripeSide,
    clock: ManualClock,
    looking: Settler,
) -> None:
    """The POST of the second may be on its way: a total read now would not tell of the first."""
    await put_in_doubt(engine, ledger, s0=5, s1=6)
    await ledger.run(
        "update usage_records set compare_at = :soon where timestamp = :at",
        soon=NOW + 2 * LATER,
        at=AT + 1,
    )
    clock.advance(LATER)
    assert await looking.look() == []
    assert reads(stripe) == 0
    clock.advance(LATER)
    assert len(await looking.look()) == 2


@pytest.mark.parametrize("combination", ["max", "latest"])
async def test_what_is_not_added_up_is_not_compared(
    engine: AsyncEngine,
    ledger: SeededLedger,
    clock: ManualClock,
    looking: Settler,
    combination: str,
) -> None:
    await put_in_doubt(engine, ledger, s0=5)
    await ledger.run("update item_periods set combination = :how", how=combination)
    clock.advance(LATER)
    assert await looking.look() == []
    assert "not added up" in ((await ledger.record(1)).detail or "")


async def test_a_record_outside_of_what_stripe_shows_is_left_to_an_operator(
    engine: AsyncEngine, ledger: SeededLedger, clock: ManualClock, looking: Settler
) -> None:
    await put_in_doubt(engine, ledger, s0=5)
    await ledger.run("update usage_records set timestamp = 1000000000")
    clock.advance(LATER)
    assert await looking.look() == []
    [row] = await ledger.rows("select state, detail from usage_records")
    assert row["state"] == "held"
    assert "no period" in row["detail"]


async def test_a_lane_at_work_is_left_alone(
    engine: AsyncEngine,
    ledger: SeededLedger,
    stripe: StripeSide,
    clock: ManualClock,
    looking: Settler,
) -> None:
    await put_in_doubt(engine, ledger, s0=5)
    await ledger.want(1, 7, at=AT + 1, increment=True)
    [lane] = await claim(engine, worker="busy")
    clock.advance(LATER)
    assert await looking.look() == []
    assert reads(stripe) == 0
    assert (await ledger.record(1)).comparisons == 0
    assert len(lane.records) == 1


async def test_nothing_is_sent_while_a_look_is_under_way_and_nothing_is_decided_on_old_news(
    engine: AsyncEngine, ledger: SeededLedger, clock: ManualClock
) -> None:
    await put_in_doubt(engine, ledger, s0=5)
    await ledger.want(1, 7, at=AT + 1, increment=True)
    clock.advance(LATER)
    async with transaction(engine) as connection:
        [item] = await store.items_to_look_at(connection, now=clock.now())
        look = await store.begin_look(connection, item, now=clock.now(), worker="s1")
    assert look is not None
    assert await claim(engine) == []
    async with transaction(engine) as connection:
        assert await store.begin_look(connection, item, now=clock.now(), worker="s2") is None
        assert await store.resume_look(connection, look)
    # A late answer of the dead worker is written down beside the look.
    await ledger.run(
        "insert into attempts (usage_record_id, idempotency_key, action, quantity, started_at, "
        "finished_at, outcome, worker) values (:id, 'k', 'increment', 5, :at, :at, 'succeeded', "
        "'dead')",
        id=(await ledger.record(1)).id,
        at=NOW,
    )
    async with transaction(engine) as connection:
        assert not await store.resume_look(connection, look)
    # The look took too long, and somebody else has the lane.
    await ledger.expire_leases()
    await claim(engine, worker="other")
    async with transaction(engine) as connection:
        assert not await store.still_leased(connection, look)


@pytest.mark.parametrize(
    ("status", "stopped"), [(503, None), (404, None), (401, StopReason.KEY_REFUSED)]
)
async def test_a_read_that_fails_is_told_and_frees_the_lane(
    engine: AsyncEngine,
    ledger: SeededLedger,
    stripe: StripeSide,
    clock: ManualClock,
    looking: Settler,
    status: int,
    stopped: StopReason | None,
) -> None:
    await put_in_doubt(engine, ledger, s0=5)
    await ledger.want(1, 7, at=AT + 1, increment=True)
    stripe.inject("status", status=status, match=GET)
    clock.advance(LATER)
    assert await looking.look() == []
    held = await ledger.record(1)
    assert held.reason == "in_doubt"
    assert f"HTTP {status}" in (held.detail or "")
    assert (await ledger.line())["reason"] == (stopped.value if stopped else None)
    await ledger.run("update subscription_lanes set due_at = :now", now=NOW)  # its turn again
    [lane] = await claim(engine)
    assert len(lane.records) == 1


async def test_while_the_line_is_stopped_nothing_is_read(
    engine: AsyncEngine,
    ledger: SeededLedger,
    stripe: StripeSide,
    clock: ManualClock,
    looking: Settler,
) -> None:
    await put_in_doubt(engine, ledger, s0=5)
    async with transaction(engine) as connection:
        await stop_line(connection, StopReason.STRIPE_UNAVAILABLE, "", now=NOW)
    clock.advance(LATER)
    assert await looking.look() == []
    assert reads(stripe) == 0


async def test_what_is_settled_in_a_closed_period_is_late_and_not_due(
    engine: AsyncEngine, ledger: SeededLedger, clock: ManualClock, looking: Settler
) -> None:
    await put_in_doubt(engine, ledger, s0=5)
    await ledger.run(
        "update item_periods set closed_at = :now, "
        "closed_until = extract(epoch from period_end)::bigint",
        now=NOW,
    )
    clock.advance(LATER)
    [settled] = await looking.look()
    assert (settled.executed, settled.state) == (False, "late")
    assert (await ledger.record(1)).due_at is not None


async def test_a_defect_over_one_item_does_not_keep_the_others(
    engine: AsyncEngine,
    ledger: SeededLedger,
    client: StripeClient,
    clock: ManualClock,
    looking: Settler,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await put_in_doubt(engine, ledger, s0=5)
    await ledger.want(2, 6, increment=True)
    for _ in range(2):
        await claim(engine)
        await ledger.expire_leases()
    real = client.usage_record_summaries

    async def broken(item: str, *, limit: int = 10) -> object:
        if item == "si_1":
            raise ZeroDivisionError("a defect")
        return await real(item, limit=limit)

    monkeypatch.setattr(client, "usage_record_summaries", broken)
    clock.advance(LATER)
    [settled] = await looking.look()
    assert settled.subscription == "sub_2"
