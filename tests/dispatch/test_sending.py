"""The dispatcher against a sandbox over HTTP: what is sent, again, under which key."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.clock import ManualClock
from app.dispatch import leases, records
from app.dispatch.decide import MOST_FAILURES
from app.dispatch.reasons import HoldReason
from app.dispatch.records import ClaimedRecord
from app.ledger.status import StatusRepository
from app.stripe_client import StripeClient, UsageRecordAnswer
from tests.dispatch.ledger import AT, NOW, SeededLedger
from tests.dispatch.stripe_side import StripeSide
from tests.dispatch.workers import DEADLINE, build, sending, until


async def drained(ledger: SeededLedger) -> bool:
    return await ledger.backlog() == 0


async def test_what_is_wanted_comes_to_stand_at_stripe(
    engine: AsyncEngine, ledger: SeededLedger, client: StripeClient, stripe: StripeSide
) -> None:
    expected: dict[str, dict[int, int]] = {}
    for number in range(1, 5):
        for second in range(7):
            await ledger.want(number, number * 10 + second, at=AT + second)
            expected.setdefault(f"si_{number}", {})[AT + second] = number * 10 + second
    async with sending(engine, client):
        await until(lambda: drained(ledger), "all is sent")
    assert stripe.standing() == expected
    assert len(stripe.ledger()) == 28
    assert {attempt["outcome"] for attempt in await ledger.attempts()} == {"succeeded"}
    assert all(attempt["request_id"] for attempt in await ledger.attempts())


async def test_two_workers_never_write_to_one_subscription_at_once(
    engine: AsyncEngine, ledger: SeededLedger, client: StripeClient, stripe: StripeSide
) -> None:
    """The sandbox refuses a second write to a subscription while one is in flight."""
    stripe.control("PATCH", "/settings", {"write_latency_ms": 10})
    for number in range(1, 5):
        for second in range(12):
            await ledger.want(number, 1, at=AT + second)
    async with (
        sending(engine, client, worker="w1", in_flight=2),
        sending(engine, client, worker="w2", in_flight=2),
    ):
        for round_ in range(2, 5):
            for number in range(1, 5):
                await ledger.want(number, round_)
            await asyncio.sleep(0)
        await until(lambda: drained(ledger), "all is sent")
    assert set(stripe.posts()) == {"200", "cut"}
    assert {attempt["worker"] for attempt in await ledger.attempts()} == {"w1", "w2"}
    assert stripe.totals() == {f"si_{number}": 15 for number in range(1, 5)}


async def test_an_answer_lost_after_execution_is_asked_for_again_not_doubled(
    engine: AsyncEngine, ledger: SeededLedger, client: StripeClient, stripe: StripeSide
) -> None:
    await ledger.want(1, 5)
    stripe.inject("cut", when="after_execution")
    clock = ManualClock(NOW)
    async with sending(engine, client, clock=clock) as worker:
        await until(lambda: drained(ledger), "it is sent", clock=clock, step=1, worker=worker)
    assert stripe.quantities() == [5]
    first, second = await ledger.attempts()
    assert first["key"] == second["key"]
    assert (first["outcome"], second["outcome"]) == ("retried", "succeeded")
    assert second["replayed"]


async def test_a_correction_during_a_lost_answer_comes_after_it(
    engine: AsyncEngine, ledger: SeededLedger, client: StripeClient, stripe: StripeSide
) -> None:
    await ledger.want(1, 5)
    cut = stripe.inject("cut", when="before_execution")
    clock = ManualClock(NOW)
    async with sending(engine, client, clock=clock) as worker:

        async def met() -> bool:
            return stripe.met(cut) == 1

        await until(met, "the connection was cut")
        await ledger.want(1, 7)
        await until(lambda: drained(ledger), "it is sent", clock=clock, step=1, worker=worker)
    assert stripe.quantities() == [5, 7]
    assert stripe.standing() == {"si_1": {AT: 7}}
    keys = [attempt["key"] for attempt in await ledger.attempts()]
    assert keys[0] == keys[1] != keys[2]


async def test_a_stored_500_is_overcome_by_a_new_key(
    engine: AsyncEngine, ledger: SeededLedger, client: StripeClient, stripe: StripeSide
) -> None:
    await ledger.want(1, 5)
    stripe.inject("stored_error")
    clock = ManualClock(NOW)
    async with sending(engine, client, clock=clock) as worker:
        await until(lambda: drained(ledger), "it is sent", clock=clock, step=1, worker=worker)
    keys = [attempt["key"] for attempt in await ledger.attempts()]
    outcomes = [attempt["outcome"] for attempt in await ledger.attempts()]
    assert outcomes == ["retried", "retried_new_key", "succeeded"]
    assert keys == [keys[0], keys[0], f"{keys[0]}~1"]
    assert stripe.standing() == {"si_1": {AT: 5}}


async def test_a_poison_record_ends_held_while_others_go_on(
    engine: AsyncEngine, ledger: SeededLedger, client: StripeClient, stripe: StripeSide
) -> None:
    await ledger.want(1, 5)
    stripe.inject("stored_error", times=None, match={"subscription": "sub_1"})
    clock = ManualClock(NOW)
    async with sending(engine, client, clock=clock) as worker:
        others = 0

        async def held() -> bool:
            nonlocal others
            if await ledger.backlog() <= 1:  # the others are through: let them be due again
                others += 1
                await ledger.want(2, others, now=clock.now())
            return (await ledger.record(1)).state == "held"

        await until(held, "the poison record is held", clock=clock, step=5, worker=worker)
        await until(lambda: drained(ledger), "the rest is sent", clock=clock, worker=worker)
        poison = await ledger.record(1)
        assert (poison.reason, poison.failures) == ("attempts_exhausted", MOST_FAILURES)
        keys = [attempt["key"] for attempt in await ledger.attempts(1)]
        assert len(set(keys)) > 5  # a stored 500 is repeated for ever under its key
        assert not (await ledger.line())["stopped"]
        assert stripe.standing() == {"si_2": {AT: others}}
        # Mended at Stripe and released, it goes through.
        stripe.heal()
        status = StatusRepository(engine)
        await status.release_records(reason="attempts_exhausted", ids=[], now=clock.now())
        await until(lambda: drained(ledger), "it is sent", clock=clock, step=1, worker=worker)
    assert stripe.standing() == {"si_1": {AT: 5}, "si_2": {AT: others}}


async def test_a_lock_is_waited_for_uncounted(
    engine: AsyncEngine, ledger: SeededLedger, client: StripeClient, stripe: StripeSide
) -> None:
    await ledger.want(1, 5)
    await ledger.want(2, 6)
    stripe.inject("lock_timeout", times=20, match={"subscription": "sub_1"})
    clock = ManualClock(NOW)
    async with sending(engine, client, clock=clock) as worker:
        await until(lambda: drained(ledger), "it is sent", clock=clock, step=30, worker=worker)
    assert stripe.standing() == {"si_1": {AT: 5}, "si_2": {AT: 6}}
    attempts = await ledger.attempts(1)
    assert len(attempts) == 21
    assert len({attempt["key"] for attempt in attempts}) == 1
    assert not (await ledger.line())["stopped"]


async def test_a_429_pauses_all_records_and_uses_up_nobodys_attempts(
    engine: AsyncEngine, ledger: SeededLedger, client: StripeClient, stripe: StripeSide
) -> None:
    for number in range(1, 5):
        await ledger.want(number, 5)
    stripe.inject("rate_limited", times=None, retry_after=3600)
    clock = ManualClock(NOW)
    async with sending(engine, client, clock=clock, in_flight=1) as worker:

        async def met() -> bool:
            return bool(await ledger.attempts())

        await until(met, "the limiter spoke", worker=worker)
        stripe.heal()
        # Everything is due by the clock; what asked for its turn waits nevertheless.
        for _ in range(20):
            clock.advance(timedelta(seconds=30))
            worker.wake()
            await asyncio.sleep(0.01)
        assert stripe.posts() == {"429": 1, "cut": 0}
    for number in range(1, 5):
        record = await ledger.record(number)
        assert (record.state, record.failures) == ("due", 0)
    assert not (await ledger.line())["stopped"]


async def test_an_answer_nobody_foresaw_holds_the_record_and_its_neighbours_go_on(
    engine: AsyncEngine, ledger: SeededLedger, client: StripeClient, stripe: StripeSide
) -> None:
    await ledger.want(1, 5)
    await ledger.want(2, 6)
    teapot = {"status": 418, "error": {"type": "teapot_error", "message": "short and stout"}}
    stripe.inject("status", match={"subscription": "sub_1"}, **teapot)
    async with sending(engine, client):
        await until(lambda: drained(ledger), "what can be sent is")
    record = await ledger.record(1)
    assert (record.state, record.reason) == ("held", "unforeseen_answer")
    assert "short and stout" in (record.detail or "")
    assert stripe.standing() == {"si_2": {AT: 6}}


async def test_a_release_after_a_stored_refusal_asks_anew(
    engine: AsyncEngine, ledger: SeededLedger, client: StripeClient, stripe: StripeSide
) -> None:
    """Stripe repeats a stored refusal under its key for 24 h, also when the cause is gone."""
    await ledger.want(1, 5)
    stripe.control("PUT", "/prices/price_tokens/meter", {"meter": "mtr_1"})

    async def hold(record: object, reason: object) -> None:
        await ledger.run(
            "update usage_records set state = 'held', reason = 'price_has_billing_meter', "
            "due_at = null"
        )

    clock = ManualClock(NOW)
    async with sending(engine, client, clock=clock, resolver=hold) as worker:
        await until(lambda: drained(ledger), "it is held")
        assert (await ledger.record(1)).state == "held"
        stripe.control("PUT", "/prices/price_tokens/meter", {"meter": None})
        await StatusRepository(engine).release_records(
            reason="price_has_billing_meter", ids=[], now=clock.now()
        )
        await until(lambda: drained(ledger), "it is sent", clock=clock, step=1, worker=worker)
    assert (await ledger.record(1)).state == "reported"
    assert stripe.standing() == {"si_1": {AT: 5}}


async def test_an_argument_that_cannot_be_sent_holds_its_record_only(
    engine: AsyncEngine, ledger: SeededLedger, client: StripeClient, stripe: StripeSide
) -> None:
    await ledger.want(1, 5, svix_id="not fit for a header")
    await ledger.want(2, 6)
    async with sending(engine, client):
        await until(lambda: drained(ledger), "what can be sent is")
    record = await ledger.record(1)
    assert (record.state, record.reason, record.sent_key) == ("held", "unforeseen_answer", None)
    assert stripe.standing() == {"si_2": {AT: 6}}


async def test_a_stop_finishes_what_is_in_flight_and_nothing_more(
    engine: AsyncEngine, ledger: SeededLedger, client: StripeClient, stripe: StripeSide
) -> None:
    for second in range(3):
        await ledger.want(1, 5, at=AT + second)
    slow = stripe.inject("latency", ms=300, times=None)
    async with sending(engine, client) as worker:

        async def in_flight() -> bool:
            return stripe.met(slow) == 1

        await until(in_flight, "a call is in flight")
        worker.stop()
    assert stripe.quantities() == [5]
    assert [attempt["outcome"] for attempt in await ledger.attempts()] == ["succeeded"]
    assert await ledger.backlog() == 2
    leased = "select 1 from subscription_lanes where lease_token is not null"
    assert await ledger.rows(leased) == []


async def test_a_stop_does_not_wait_for_the_pace(
    engine: AsyncEngine, ledger: SeededLedger, client: StripeClient, stripe: StripeSide
) -> None:
    """After a 429 with Retry-After: 600 a SIGTERM must not take until the grace is over."""
    for number in range(1, 5):
        await ledger.want(number, 5)
    stripe.inject("rate_limited", times=None, retry_after=600)
    async with sending(engine, client, in_flight=1, grace=3600) as worker:

        async def paused() -> bool:
            return bool(await ledger.attempts())

        await until(paused, "the limiter spoke", worker=worker)
    assert await ledger.backlog() == 4


async def test_a_lane_that_was_lost_is_left_to_its_new_holder(
    engine: AsyncEngine,
    ledger: SeededLedger,
    client: StripeClient,
    stripe: StripeSide,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The database was away for longer than a lease; meanwhile another worker took the lane."""
    monkeypatch.setattr(leases, "RENEW_EVERY", 0.1)
    for second in range(3):
        await ledger.want(1, 5, at=AT + second)
    post = client.post_usage_record
    in_flight = asyncio.Event()

    async def noticed() -> bool:
        return not worker._leases

    async def slow(**record: Any) -> UsageRecordAnswer:
        in_flight.set()
        answer = await post(**record)
        await until(noticed, "the worker has noticed that the lane is lost")
        return answer

    async def answered() -> bool:
        return bool(await ledger.attempts())

    monkeypatch.setattr(client, "post_usage_record", slow)
    async with sending(engine, client) as worker:
        await asyncio.wait_for(in_flight.wait(), DEADLINE)
        await ledger.run(
            "update subscription_lanes set lease_token = gen_random_uuid(), leased_by = 'w2', "
            "leased_until = clock_timestamp() + interval '1 hour'"
        )
        await until(answered, "its answer is written down")
    assert stripe.quantities() == [5]
    assert [attempt["outcome"] for attempt in await ledger.attempts()] == ["succeeded"]
    assert await ledger.backlog() == 3  # audited only: the new holder settles it
    [lane] = await ledger.rows("select leased_by from subscription_lanes")
    assert lane["leased_by"] == "w2"


async def test_a_worker_that_can_write_nothing_down_ends(
    engine: AsyncEngine,
    ledger: SeededLedger,
    client: StripeClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It must not look alive: the process ends, and a supervisor starts another."""

    async def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(records, "write_attempts", broken)
    await ledger.want(1, 5)
    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(build(engine, client).run(grace=0.1), DEADLINE)


async def test_a_defect_in_resolving_does_not_stop_the_others(
    engine: AsyncEngine, ledger: SeededLedger, client: StripeClient, stripe: StripeSide
) -> None:
    async def broken(_record: ClaimedRecord, _reason: HoldReason) -> None:
        raise ZeroDivisionError("a defect")

    await ledger.want(1, 5)
    await ledger.want(2, 6)
    stripe.control("POST", "/subscription_items/si_1/end")

    async def other_is_sent() -> bool:
        return await ledger.backlog() == 1

    async with sending(engine, client, resolver=broken):
        await until(other_is_sent, "the other is sent")
        await ledger.want(3, 7)
        await until(other_is_sent, "and one more")
    assert stripe.standing() == {"si_2": {AT: 6}, "si_3": {AT: 7}}
    assert (await ledger.record(1)).state == "due"
