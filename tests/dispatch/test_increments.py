"""Increments against a sandbox with billing thresholds: what is sent, held, and sent again."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.clock import ManualClock
from app.db import transaction
from app.dispatch.doubt import Settler
from app.dispatch.line import read_line, stop_line
from app.dispatch.reasons import StopReason
from app.dispatch.records import DOUBT_PATIENCE
from app.stripe_client import StripeClient
from tests.dispatch.ledger import AT, NOW, SeededLedger
from tests.dispatch.stripe_side import StripeSide
from tests.dispatch.test_lanes import claim
from tests.dispatch.workers import sending, until


def nothing_due() -> None:
    """Nobody waits."""


def settler(engine: AsyncEngine, client: StripeClient, clock: ManualClock) -> Settler:
    return Settler(engine, clock, client, worker="s1", on_due=nothing_due)


async def send_all(
    engine: AsyncEngine, client: StripeClient, ledger: SeededLedger, clock: ManualClock
) -> None:
    """Send until nothing is due."""

    async def drained() -> bool:
        return await ledger.backlog() == 0

    async with sending(engine, client, clock=clock) as worker:
        await until(drained, "all is sent or held", clock=clock, step=1, worker=worker)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


@pytest.fixture(autouse=True)
def thresholds(stripe: StripeSide) -> None:
    for number in range(1, 5):
        stripe.set_threshold(number)


async def test_differences_are_added(
    engine: AsyncEngine,
    ledger: SeededLedger,
    client: StripeClient,
    stripe: StripeSide,
    clock: ManualClock,
) -> None:
    for quantity in (5, 12):
        await ledger.want(1, quantity, increment=True)
        await send_all(engine, client, ledger, clock)
    assert stripe.quantities() == [5, 7]
    assert stripe.standing() == {"si_1": {AT: 12}}
    after = await ledger.record(1)
    assert (after.state, after.reported, after.sent_action) == ("reported", 12, None)
    attempts = await ledger.attempts(1)
    assert [(a["action"], a["quantity"]) for a in attempts] == [("increment", 5), ("increment", 7)]


async def test_what_stands_is_not_taken_back_but_goes_on_when_more_is_owed(
    engine: AsyncEngine,
    ledger: SeededLedger,
    client: StripeClient,
    stripe: StripeSide,
    clock: ManualClock,
) -> None:
    await ledger.want(1, 5, increment=True)
    await send_all(engine, client, ledger, clock)
    await ledger.want(1, 3)
    await send_all(engine, client, ledger, clock)
    held = await ledger.record(1)
    assert (held.state, held.reason) == ("held", "negative_increment")
    assert "2 units" in (held.detail or "")
    await settler(engine, client, clock).look()
    assert (await ledger.record(1)).state == "held"
    await ledger.want(1, 9)
    await settler(engine, client, clock).look()
    await send_all(engine, client, ledger, clock)
    assert stripe.standing() == {"si_1": {AT: 9}}
    assert (await ledger.record(1)).state == "reported"


FAULTS: dict[str, tuple[dict[str, Any], bool]] = {
    "cut before": ({"kind": "cut", "when": "before_execution"}, False),
    "cut after": ({"kind": "cut", "when": "after_execution"}, True),
    "half an answer": ({"kind": "cut", "when": "mid_answer"}, True),
    "too late": ({"kind": "latency", "ms": 6000, "phase": "answer"}, True),
    "a stored 500": ({"kind": "stored_error"}, False),
    "a stored 500 that was executed": ({"kind": "stored_error", "executed": True}, True),
    "a 503": ({"kind": "status", "status": 503}, False),
    "garbage": ({"kind": "garbage"}, True),
    "a key in use": ({"kind": "key_in_use"}, False),
    "a stranger's answer": ({"kind": "status", "status": 408, "body": "<html>"}, False),
}


@pytest.mark.parametrize(("fault", "executed"), FAULTS.values(), ids=FAULTS)
async def test_an_outcome_in_doubt_is_settled_by_the_summaries(
    engine: AsyncEngine,
    ledger: SeededLedger,
    client: StripeClient,
    stripe: StripeSide,
    clock: ManualClock,
    fault: dict[str, Any],
    executed: bool,
) -> None:
    await ledger.want(1, 4, at=AT + 1, increment=True)
    await send_all(engine, client, ledger, clock)
    stripe.inject(**fault)
    await ledger.want(1, 5, increment=True)
    await send_all(engine, client, ledger, clock)
    held = await ledger.record(1)
    assert (held.state, held.reason, held.sent_quantity) == ("held", "in_doubt", 5)
    assert held.sent_key is not None
    # Whatever becomes of the wanted quantity, and for as long as nobody looked: nothing is sent.
    await ledger.want(1, 8)
    clock.advance(DOUBT_PATIENCE / 2)
    looking = settler(engine, client, clock)
    assert await looking.look() == []
    await send_all(engine, client, ledger, clock)
    assert len(await ledger.attempts(1)) == 2
    clock.advance(DOUBT_PATIENCE)
    [settled] = await looking.look()
    assert (settled.executed, settled.reported) == (executed, 5 if executed else 0)
    await send_all(engine, client, ledger, clock)
    assert stripe.standing() == {"si_1": {AT: 8, AT + 1: 4}}
    after = await ledger.record(1)
    assert (after.state, after.reported, after.compare_at) == ("reported", 8, None)
    keys = [attempt["key"] for attempt in await ledger.attempts(1)]
    assert len(keys) == len(set(keys)) == 3


CERTAIN: dict[str, dict[str, Any]] = {
    "a limiter": {"kind": "rate_limited", "retry_after": 1},
    "a lock": {"kind": "lock_timeout"},
}


@pytest.mark.parametrize("fault", CERTAIN.values(), ids=CERTAIN)
async def test_what_was_certainly_not_executed_goes_on_with_the_newest_difference(
    engine: AsyncEngine,
    ledger: SeededLedger,
    client: StripeClient,
    stripe: StripeSide,
    clock: ManualClock,
    fault: dict[str, Any],
) -> None:
    stripe.inject(**fault)
    await ledger.want(1, 5, increment=True)

    async def refused() -> bool:
        return len(await ledger.attempts(1)) == 1

    async with sending(engine, client, clock=clock) as worker:
        await until(refused, "it was refused", worker=worker)
    between = await ledger.record(1)
    assert (between.state, between.sent_key, between.sent_action) == ("due", None, None)
    await ledger.want(1, 8)
    await send_all(engine, client, ledger, clock)
    assert stripe.quantities() == [8]
    assert stripe.standing() == {"si_1": {AT: 8}}


async def test_a_refused_key_stops_the_line_and_leaves_nothing_in_doubt(
    engine: AsyncEngine,
    ledger: SeededLedger,
    client: StripeClient,
    stripe: StripeSide,
    clock: ManualClock,
) -> None:
    stripe.inject("status", status=401, times=None, match={})
    for second in range(3):
        await ledger.want(1, 5, at=AT + second, increment=True)

    async def stopped() -> bool:
        return bool((await ledger.line())["stopped"])

    async with sending(engine, client, clock=clock) as worker:
        await until(stopped, "the line is stopped", worker=worker)
    # Not even those that were claimed with it, and never tried.
    for second in range(3):
        record = await ledger.record(1, at=AT + second)
        assert (record.state, record.sent_key, record.failures) == ("due", None, 0)
    stripe.heal()
    await send_all(engine, client, ledger, clock)
    assert stripe.totals()["si_1"] == 15


async def test_another_version_holds_what_it_executed_and_stops_the_line(
    engine: AsyncEngine,
    ledger: SeededLedger,
    client: StripeClient,
    stripe: StripeSide,
    clock: ManualClock,
) -> None:
    stripe.inject("version_echo", version="2030-01-01.other")
    await ledger.want(1, 5, increment=True)
    await send_all(engine, client, ledger, clock)
    assert (await ledger.record(1)).reason == "in_doubt"
    line = await ledger.line()
    assert (line["stopped"], line["reason"]) == (True, "version_mismatch")


async def test_an_outage_is_probed_by_reads_and_not_by_increments(
    engine: AsyncEngine,
    ledger: SeededLedger,
    client: StripeClient,
    stripe: StripeSide,
    clock: ManualClock,
) -> None:
    async with transaction(engine) as connection:
        await stop_line(connection, StopReason.STRIPE_UNAVAILABLE, "", now=NOW)
    down = stripe.inject("status", status=503, times=None, match={})
    await ledger.want(1, 5, increment=True)

    async def probed() -> bool:
        return stripe.met(down) >= 3

    async with sending(engine, client, clock=clock) as worker:
        await until(probed, "it was probed", clock=clock, step=5, worker=worker)
        record = await ledger.record(1)
        assert (record.state, record.reason) == ("due", None)
        stripe.heal()
    await send_all(engine, client, ledger, clock)
    assert stripe.quantities() == [5]
    async with transaction(engine) as connection:
        assert not (await read_line(connection)).stopped


async def test_what_a_dead_worker_had_claimed_is_settled(
    engine: AsyncEngine,
    ledger: SeededLedger,
    client: StripeClient,
    stripe: StripeSide,
    clock: ManualClock,
) -> None:
    """Claimed twice over: one POST went out, the other did not, and nobody wrote anything down."""
    await ledger.want(1, 5, increment=True)
    await ledger.want(1, 7, at=AT + 1, increment=True)
    [lane] = await claim(engine)
    sent = lane.records[1]
    await client.post_usage_record(
        subscription_item=sent.subscription_item,
        quantity=sent.quantity,
        timestamp=sent.timestamp,
        action=sent.action,
        idempotency_key=sent.key,
    )
    await ledger.expire_leases()
    await send_all(engine, client, ledger, clock)
    assert stripe.quantities() == [sent.quantity]
    clock.advance(timedelta(minutes=5))
    settled = await settler(engine, client, clock).look()
    assert {(s.id == sent.id, s.executed) for s in settled} == {(True, True), (False, False)}
    await send_all(engine, client, ledger, clock)
    assert stripe.standing() == {"si_1": {AT: 5, AT + 1: 7}}
