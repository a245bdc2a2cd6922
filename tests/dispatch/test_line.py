"""The line: stopped by an outage or a refused key, probed by one call at a time, opened again."""

import asyncio
from datetime import timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.clock import ManualClock
from app.db import transaction
from app.dispatch.line import (
    LONGEST_PROBE,
    OUTAGE_AFTER,
    PROBE_PATIENCE,
    open_line,
    probe_delay,
    probe_soon,
    read_line,
    return_probe,
    stop_line,
    take_probe,
)
from app.dispatch.reasons import StopReason
from app.stripe_client import StripeClient
from tests.dispatch.ledger import AT, NOW, SeededLedger
from tests.dispatch.stripe_side import KEY, StripeSide
from tests.dispatch.workers import sending, until

DOWN = StopReason.STRIPE_UNAVAILABLE
SECOND = timedelta(seconds=1)


def test_probes_come_rarer_up_to_a_bound() -> None:
    delays = [probe_delay(failures) for failures in range(12)]
    assert delays == sorted(delays)
    assert (delays[0], delays[-1]) == (1.0, LONGEST_PROBE)


async def test_a_stop_keeps_its_beginning_and_only_probes_put_it_off(engine: AsyncEngine) -> None:
    async with transaction(engine) as connection:
        await stop_line(connection, DOWN, "first", now=NOW)
        first = await read_line(connection)
        assert (first.stopped, first.since, first.probe_at) == (True, NOW, NOW + SECOND)
        # A hundred calls were in flight when Stripe went away.
        for _ in range(100):
            await stop_line(connection, DOWN, "straggler", now=NOW + 9 * SECOND)
        assert await read_line(connection) == first
        await stop_line(connection, DOWN, "probe", now=NOW + SECOND, probed=True)
        again = await read_line(connection)
    assert (again.since, again.detail, again.probe_at) == (NOW, "probe", NOW + 3 * SECOND)


async def test_one_worker_at_a_time_may_probe(engine: AsyncEngine) -> None:
    async def take() -> bool:
        async with transaction(engine) as connection:
            return await take_probe(connection, now=NOW + SECOND)

    async with transaction(engine) as connection:
        assert not await take_probe(connection, now=NOW)  # the line is open
        await stop_line(connection, DOWN, "", now=NOW)
        assert not await take_probe(connection, now=NOW)  # too early
    assert sorted(await asyncio.gather(*(take() for _ in range(8)))) == [False] * 7 + [True]
    async with transaction(engine) as connection:
        # A prober that dies does not stop the probing for ever.
        assert await take_probe(connection, now=NOW + SECOND + PROBE_PATIENCE)
        await return_probe(connection, now=NOW)
        assert await take_probe(connection, now=NOW)


async def test_opening_forgets_everything(engine: AsyncEngine) -> None:
    async with transaction(engine) as connection:
        assert not await open_line(connection)
        await stop_line(connection, DOWN, "", now=NOW)
        await stop_line(connection, DOWN, "", now=NOW, probed=True)
        assert await open_line(connection)
        assert not (await read_line(connection)).stopped
        await stop_line(connection, DOWN, "", now=NOW)
        assert (await read_line(connection)).probe_at == NOW + SECOND


async def test_a_start_probes_at_once_but_never_stops_an_open_line(engine: AsyncEngine) -> None:
    async with transaction(engine) as connection:
        await probe_soon(connection, now=NOW)
        assert not (await read_line(connection)).stopped
        await stop_line(connection, DOWN, "", now=NOW)
        await probe_soon(connection, now=NOW)
        assert await take_probe(connection, now=NOW)


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        ("cut", {"when": "before_execution"}),
        ("cut", {"when": "after_execution"}),
        ("status", {"status": 503}),
        ("garbage", {}),
    ],
    ids=["cut before", "cut after", "503", "garbage"],
)
async def test_an_outage_stops_the_line_uses_up_nothing_and_ends_by_itself(
    engine: AsyncEngine,
    ledger: SeededLedger,
    client: StripeClient,
    stripe: StripeSide,
    kind: str,
    fault: dict[str, object],
) -> None:
    for number in range(1, 5):
        await ledger.want(number, 5)
    down = stripe.inject(kind, times=None, **fault)
    clock = ManualClock(NOW)
    async with sending(engine, client, clock=clock) as worker:

        async def stopped() -> bool:
            return bool((await ledger.line())["stopped"])

        await until(stopped, "the line stops", clock=clock, step=1, worker=worker)
        assert (await ledger.line())["reason"] == "stripe_unavailable"
        before = stripe.met(down)
        assert before >= OUTAGE_AFTER

        async def probed() -> bool:
            return stripe.met(down) >= before + 8

        await until(probed, "it is probed", clock=clock, step=LONGEST_PROBE, worker=worker)
        for number in range(1, 5):
            record = await ledger.record(number)
            assert (record.state, record.failures) == ("due", 0)
        stripe.heal()

        async def done() -> bool:
            return await ledger.backlog() == 0

        await until(done, "all is sent", clock=clock, step=LONGEST_PROBE, worker=worker)
    line = await ledger.line()
    assert (line["stopped"], line["failures"], line["reason"]) == (False, 0, None)
    assert stripe.standing() == {f"si_{number}": {AT: 5} for number in range(1, 5)}


async def test_a_stopped_line_lets_one_call_through_at_a_time(
    engine: AsyncEngine, ledger: SeededLedger, client: StripeClient, stripe: StripeSide
) -> None:
    for number in range(1, 5):
        for second in range(3):
            await ledger.want(number, 5, at=AT + second)
    async with transaction(engine) as connection:
        await stop_line(connection, DOWN, "", now=NOW)
    stripe.inject("status", status=503, times=None)
    clock = ManualClock(NOW)
    async with (
        sending(engine, client, clock=clock, worker="w1") as one,
        sending(engine, client, clock=clock, worker="w2") as other,
    ):

        async def first() -> bool:
            return len(await ledger.attempts()) >= 1

        await until(first, "a probe")  # both start, and may each ask for one at once
        for _ in range(6):
            before = len(await ledger.attempts())
            clock.advance(timedelta(seconds=LONGEST_PROBE))
            one.wake()
            other.wake()

            async def another(before: int = before) -> bool:
                return len(await ledger.attempts()) > before

            await until(another, "another probe")
            for _ in range(5):
                one.wake()
                other.wake()
                await asyncio.sleep(0.01)
            assert len(await ledger.attempts()) == before + 1
    assert (await ledger.line())["stopped"]


async def test_a_line_opens_again_while_nothing_is_due(
    engine: AsyncEngine, ledger: SeededLedger, client: StripeClient, stripe: StripeSide
) -> None:
    """Readiness must not stay red until the next record comes, which may be tomorrow."""
    stripe.control("POST", "/keys/revoke", {"key": KEY})
    async with transaction(engine) as connection:
        await stop_line(connection, StopReason.KEY_REFUSED, "", now=NOW)
    clock = ManualClock(NOW)

    async def looked() -> bool:
        return bool((await ledger.line())["failures"] >= 3)

    async def opened() -> bool:
        return not (await ledger.line())["stopped"]

    async with sending(engine, client, clock=clock) as worker:
        await until(looked, "it was probed", clock=clock, step=LONGEST_PROBE, worker=worker)
        assert (await ledger.line())["reason"] == "key_refused"
        stripe.control("PUT", "/keys", {"key": KEY})
        await until(opened, "the line opens", clock=clock, step=LONGEST_PROBE, worker=worker)
    assert stripe.posts() == {"cut": 0}


async def test_what_only_a_record_can_tell_waits_for_one(
    engine: AsyncEngine, ledger: SeededLedger, client: StripeClient, stripe: StripeSide
) -> None:
    """That a key may read does not say that it may write."""
    async with transaction(engine) as connection:
        await stop_line(connection, StopReason.PERMISSION_MISSING, "", now=NOW)
    clock = ManualClock(NOW + timedelta(seconds=2))
    async with sending(engine, client, clock=clock) as worker:

        async def handed_back() -> bool:
            return bool((await ledger.line())["probe_at"] <= clock.now())

        for _ in range(5):
            worker.wake()
            await asyncio.sleep(0.01)
        await until(handed_back, "the probe is handed back")
        await ledger.want(1, 5, now=clock.now())

        async def done() -> bool:
            return await ledger.backlog() == 0

        await until(done, "the first record probes", worker=worker)
    assert not (await ledger.line())["stopped"]
    assert stripe.standing() == {"si_1": {AT: 5}}


async def test_a_refused_key_stops_everything_and_a_restart_probes_at_once(
    engine: AsyncEngine, ledger: SeededLedger, client: StripeClient, stripe: StripeSide
) -> None:
    for number in range(1, 5):
        await ledger.want(number, 5)
    stripe.control("POST", "/keys/revoke", {"key": KEY})
    clock = ManualClock(NOW)

    async def stopped() -> bool:
        return bool((await ledger.line())["stopped"])

    async with sending(engine, client, clock=clock, in_flight=1):
        await until(stopped, "the line stops")
    assert (await ledger.line())["reason"] == "key_refused"
    assert stripe.posts()["401"] == 1
    for number in range(1, 5):
        record = await ledger.record(number)
        assert (record.state, record.failures, record.failed_at) == ("due", 0, None)

    async def done() -> bool:
        return await ledger.backlog() == 0

    # The clock stands still: nothing but the start makes it probe.
    stripe.control("PUT", "/keys", {"key": KEY})
    async with sending(engine, client, clock=clock):
        await until(done, "all is sent")
    assert stripe.standing() == {f"si_{number}": {AT: 5} for number in range(1, 5)}


async def test_another_version_in_the_answer_stops_the_line_and_settles_afterwards(
    engine: AsyncEngine, ledger: SeededLedger, client: StripeClient, stripe: StripeSide
) -> None:
    """The POST was executed; nobody may conclude anything from its answer."""
    await ledger.want(1, 5)
    stripe.inject("version_echo", version="2026-01-01.other")
    clock = ManualClock(NOW)

    async def stopped() -> bool:
        return bool((await ledger.line())["stopped"])

    async def done() -> bool:
        return await ledger.backlog() == 0

    async with sending(engine, client, clock=clock) as worker:
        await until(stopped, "the line stops")
        assert (await ledger.line())["reason"] == "version_mismatch"
        assert (await ledger.record(1)).reported == 0
        await until(done, "it is sent", clock=clock, step=1, worker=worker)
    assert stripe.quantities() == [5]
    assert (await ledger.attempts())[-1]["replayed"]
