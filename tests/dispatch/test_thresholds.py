"""The whole way under billing thresholds, and when they are set up in mid-period."""

import asyncio
from datetime import UTC, datetime

from sqlalchemy.engine import URL

from app.bootstrap import Services
from tests.dispatch.bridging import AT, bridge, deliver, drained
from tests.dispatch.ledger import SeededLedger
from tests.dispatch.stripe_side import StripeSide
from tests.dispatch.workers import until


async def sent(built: Services, what: str) -> None:
    await until(lambda: drained(built), what)


async def test_usage_of_a_subscription_with_thresholds_is_added_up(
    fresh_url: URL, stripe: StripeSide, ledger: SeededLedger
) -> None:
    stripe.set_threshold(1)
    async with bridge(fresh_url, stripe) as built:
        await deliver(built, 5)
        await sent(built, "the first window is billed")
        await deliver(built, 9)  # a correction
        await deliver(built, 7, hour=1)
        await sent(built, "the others are billed")
        summary = await built.status.summary()
    assert stripe.standing() == {"si_1": {AT: 9, AT + 3600: 7}}
    assert (summary.parked, summary.held) == ({}, {})
    assert {attempt["action"] for attempt in await ledger.attempts(1)} == {"increment"}
    assert {attempt["outcome"] for attempt in await ledger.attempts(1)} == {"succeeded"}


async def test_thresholds_set_up_in_mid_period_cost_at_most_a_refusal_a_record(
    fresh_url: URL, stripe: StripeSide, ledger: SeededLedger
) -> None:
    async with bridge(fresh_url, stripe) as built:
        await deliver(built, 5)
        await deliver(built, 6, hour=1)
        await sent(built, "the first windows are billed")
        stripe.set_threshold(1)
        await deliver(built, 8)
        await deliver(built, 9, hour=1)
        await deliver(built, 7, hour=2)
        await sent(built, "the others are billed")
        summary = await built.status.summary()
    assert stripe.standing() == {"si_1": {AT: 8, AT + 3600: 9, AT + 7200: 7}}
    assert (summary.parked, summary.held) == ({}, {})
    attempts = await ledger.attempts(1)
    assert [a["outcome"] for a in attempts if a["action"] == "increment"] == ["succeeded"] * 3
    refused = [a for a in attempts if a["outcome"] == "resolved"]
    # The read that tells is on its way after the first one: a record may be sent before it is done.
    assert 1 <= len(refused) <= 3
    assert {a["problem"] for a in refused} == {"thresholds_increment_only"}
    assert len({a["record_id"] for a in refused}) == len(refused)


async def test_a_lowered_window_is_held_and_shown(fresh_url: URL, stripe: StripeSide) -> None:
    stripe.set_threshold(1)
    async with bridge(fresh_url, stripe) as built:
        await deliver(built, 5)
        await sent(built, "it is billed")
        await deliver(built, 2)
        await sent(built, "it is held")
        summary = await built.status.summary()
        assert summary.held == {"negative_increment": 1}
        # More usage of that hour makes up for it.
        await deliver(built, 11)

        async def made_up() -> bool:
            return (await built.status.summary()).held == {}

        await until(made_up, "it goes on by itself")
        await sent(built, "it is billed")
    assert stripe.standing() == {"si_1": {AT: 11}}


async def test_a_release_of_what_is_in_doubt_sends_nothing(
    fresh_url: URL, stripe: StripeSide
) -> None:
    stripe.set_threshold(1)
    async with bridge(fresh_url, stripe) as built:
        stripe.inject("cut", when="after_execution")
        await deliver(built, 5)
        await sent(built, "it is held")
        assert (await built.status.summary()).held == {"in_doubt": 1}
        now = datetime.now(UTC)
        assert await built.status.release_records(reason="in_doubt", ids=[], now=now) == 1
        await asyncio.sleep(0)
        await sent(built, "it is held again")
        assert (await built.status.summary()).held == {"in_doubt": 1}
    assert stripe.posts()["cut"] == 1
    assert stripe.quantities() == [5]
