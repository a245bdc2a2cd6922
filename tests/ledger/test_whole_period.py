"""Meters whose windows cannot be combined: the whole period is asked for, and is one record."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import pytest

from app.db import transaction
from app.ledger import questions
from app.ledger.querying import ASK_PARKED_AGAIN, PATIENCE
from app.ledger.status import StatusRepository
from app.mapping.models import LatePolicy
from tests.ledger.asked import (
    BOUNDARY,
    FIRST,
    LAST,
    MIDNIGHT,
    MINUTE,
    SECOND,
    Asked,
    asked_world,
)
from tests.ledger.world import World
from tests.mapping.stripe_side import HOUR, item, snapshot
from tests.openmeter_side.answers import unavailable

ONE_METER = """
meters: [{meter: tokens, price: price_1, whole_period: true}]
subjects: [{subject: customer-1, subscription: sub_1}, {subject: customer-2, subscription: sub_1}]
"""
BY_GROUP = """
meters:
  - {meter: tokens, price: price_1, whole_period: true, groups: {model: a}}
subjects: [{subject: customer-1, subscription: sub_1}]
"""
OWN_SECOND = int(FIRST.timestamp()) + 2


@pytest.fixture
async def asked(unmapped: World) -> AsyncIterator[Asked]:
    await unmapped.apply(ONE_METER)
    async with asked_world(unmapped) as made:
        made.side.meter("tokens", "AVG")
        yield made


async def hours(asked: Asked, *numbers: int, **members: Any) -> None:
    """Hours of the day are told, each by a delivery of its own."""
    for number in numbers:
        start = MIDNIGHT + number * HOUR
        await asked.report(start, start + HOUR, "HOUR", **members)


async def periods(asked: Asked) -> list[tuple[datetime, int, str]]:
    return [(w["window_start"], w["value"], w["state"]) for w in await asked.windows("period")]


@pytest.mark.parametrize(
    ("aggregation", "values", "whole"),
    [("AVG", [10, 20, 60], 30), ("MIN", [10, 20, 5], 5), ("UNIQUE_COUNT", [7, 7, 8], 2)],
)
@pytest.mark.parametrize("usage", ["sum", "max", "last_during_period", "last_ever"])
async def test_one_record_holds_the_value_of_the_period(
    asked: Asked, aggregation: str, values: list[int], whole: int, usage: str
) -> None:
    asked.side.meter("tokens", aggregation)
    await asked.begin(FIRST, BOUNDARY, aggregate_usage=usage)
    for hour, value in enumerate(values):
        asked.use(MIDNIGHT + hour * HOUR + MINUTE, value)
        asked.world.clock.set(MIDNIGHT + (hour + 1) * HOUR)
        await hours(asked, hour)
    assert await periods(asked) == [(FIRST, whole, "booked")]
    assert await asked.world.wanted() == {OWN_SECOND: whole}
    assert {(w["state"], w["reason"]) for w in await asked.windows("webhook")} == {
        ("covered", "whole_period")
    }


async def test_a_burst_of_windows_is_one_question(asked: Asked) -> None:
    for hour in range(10):
        asked.use(MIDNIGHT + hour * HOUR, 12)
    asked.world.clock.set(MIDNIGHT + 10 * HOUR)
    await hours(asked, *range(10)[:0])
    await asked.report(MIDNIGHT, MIDNIGHT + 10 * HOUR, "HOUR")
    assert len(asked.side.requests) == 1
    assert await asked.world.wanted() == {OWN_SECOND: 12}


async def test_what_comes_while_it_is_asked_is_asked_for_again(asked: Asked) -> None:
    asked.use(MIDNIGHT, 10)
    asked.world.clock.set(MIDNIGHT + HOUR)
    asked.side.fail(unavailable(), times=1)
    await hours(asked, 0)
    asked.world.clock.advance(MINUTE)
    async with transaction(asked.world.engine) as connection:
        [question] = await questions.claim(connection, asked.world.clock.now())
    asked.use(MIDNIGHT + HOUR, 30)
    asked.world.clock.set(MIDNIGHT + 2 * HOUR)
    [message] = asked.side.webhooks("tokens", "HOUR", MIDNIGHT + HOUR, MIDNIGHT + 2 * HOUR)
    await asked.world.deliver(body=message.body)
    await asked.months.settle()
    async with transaction(asked.world.engine) as connection:
        await questions.write_values(
            connection, question, [question.told[0] + 10], now=asked.world.clock.now()
        )
    await asked.settle()
    assert await periods(asked) == [(FIRST, 20, "booked")]


async def test_a_correction_in_a_closed_period_carries_the_difference(asked: Asked) -> None:
    asked.use(MIDNIGHT, 10)
    asked.world.clock.set(MIDNIGHT + HOUR)
    await hours(asked, 0)
    asked.world.clock.set(BOUNDARY + 2 * HOUR)
    await asked.begin(BOUNDARY, LAST)
    asked.use(MIDNIGHT + MINUTE, 40, arrived=asked.world.clock.now())
    await hours(asked, 0)
    assert await periods(asked) == [(FIRST, 25, "booked")]
    assert await asked.months.carries() == [15]
    assert await asked.billed() == {FIRST: 10, BOUNDARY: 15}


async def test_a_window_over_the_boundary_counts_in_the_period_it_ends_in(asked: Asked) -> None:
    asked.use(BOUNDARY - MINUTE, 10)
    asked.use(BOUNDARY + MINUTE, 30)
    asked.world.clock.set(BOUNDARY - SECOND)
    await asked.flush_until(BOUNDARY + 20 * SECOND)
    asked.world.clock.set(MIDNIGHT + 14 * HOUR)
    await asked.begin(BOUNDARY, LAST)
    await hours(asked, 13)
    assert await periods(asked) == [(BOUNDARY, 30, "booked")]
    assert await asked.windows("part") == []


async def test_the_last_minutes_are_in_the_value_of_the_period(asked: Asked) -> None:
    asked.use(MIDNIGHT, 10)
    asked.world.clock.set(MIDNIGHT + HOUR)
    await hours(asked, 0)
    asked.use(BOUNDARY - 10 * MINUTE, 20)
    await asked.flush_until(BOUNDARY - 2 * MINUTE)
    assert await asked.billed() == {FIRST: 15}
    # The same value in the same minute: only the whole period shows that there was more.
    asked.use(BOUNDARY - 10 * MINUTE, 20, arrived=BOUNDARY - MINUTE)
    asked.use(BOUNDARY - 10 * MINUTE, 30, arrived=BOUNDARY - MINUTE)
    asked.use(BOUNDARY - 10 * MINUTE, 10, arrived=BOUNDARY - MINUTE)
    await asked.flush_until(BOUNDARY + 20 * SECOND)
    assert await asked.billed() == {FIRST: 18}
    assert await asked.provisional() == []


async def test_two_subjects_cannot_share_an_item(asked: Asked) -> None:
    for subject in ("customer-1", "customer-2"):
        asked.use(MIDNIGHT, 10, subject=subject)
    asked.world.clock.set(MIDNIGHT + HOUR)
    await hours(asked, 0)
    assert sorted(state for *_, state in await periods(asked)) == ["booked", "parked"]
    assert await asked.world.parked() == {"not_across_groups": 1}
    assert await asked.world.wanted() == {OWN_SECOND: 10}


async def test_only_the_groups_of_the_mapping_are_asked_for(unmapped: World) -> None:
    await unmapped.apply(BY_GROUP)
    async with asked_world(unmapped) as asked:
        asked.side.meter("tokens", "AVG", group_by=("model", "user"))
        for model, user, value in (("a", "x", 10), ("a", "y", 50), ("b", "x", 900)):
            asked.use(MIDNIGHT, value, group={"model": model, "user": user})
        unmapped.clock.set(MIDNIGHT + HOUR)
        await hours(asked, 0, group_by=["model", "user"])
        # Two groups of one filter are one value: theirs together.
        assert await periods(asked) == [(FIRST, 30, "booked")]
        assert await unmapped.parked() == {"group_unmatched": 1}
        assert len(asked.side.requests) == 1


@pytest.mark.parametrize("released", ["by an operator", "by itself", "by a mapping"])
async def test_without_an_answer_it_is_parked_and_asked_for_again(
    asked: Asked, released: str
) -> None:
    asked.use(MIDNIGHT, 10)
    asked.world.clock.set(MIDNIGHT + HOUR)
    asked.side.fail(unavailable())
    await hours(asked, 0)
    asked.world.clock.advance(PATIENCE + MINUTE)
    await asked.settle()
    assert await asked.world.parked() == {"query_unanswered": 1}
    assert await asked.world.wanted() == {}
    asked.side.heal()
    if released == "by an operator":
        status = StatusRepository(asked.world.engine)
        assert await status.release_windows(reason="query_unanswered", ids=[]) == 1
    elif released == "by a mapping":
        await asked.world.apply(ONE_METER.replace("true}", "true, scale: 2}"))
        asked.months.replica.mappings.forget_all()
    else:
        asked.world.clock.advance(ASK_PARKED_AGAIN)
        await asked.world.run(
            "update usage_windows set state = 'pending', retry_at = null "
            "where state = 'parked' and retry_at <= :now",
            now=asked.world.clock.now(),
        )
    await asked.settle()
    assert await periods(asked) == [(FIRST, 10, "booked")]
    assert await asked.world.wanted() == {OWN_SECOND: 20 if released == "by a mapping" else 10}


async def test_without_an_answer_what_is_booked_stays(asked: Asked) -> None:
    asked.use(MIDNIGHT, 10)
    asked.world.clock.set(MIDNIGHT + HOUR)
    await hours(asked, 0)
    asked.side.fail(unavailable())
    asked.use(MIDNIGHT + HOUR, 30)
    asked.world.clock.set(MIDNIGHT + 2 * HOUR)
    await hours(asked, 1)
    asked.world.clock.advance(PATIENCE + MINUTE)
    await asked.settle()
    assert await asked.world.parked() == {"query_unanswered": 1}
    assert await asked.world.wanted() == {OWN_SECOND: 10}
    asked.side.heal()
    asked.use(MIDNIGHT + 17 * MINUTE, 50, arrived=asked.world.clock.now())
    await hours(asked, 0)
    assert await asked.world.parked() == {}
    assert await asked.world.wanted() == {OWN_SECOND: 30}


async def test_openmeter_configured_no_more(asked: Asked) -> None:
    """Its windows are parked under their own reason, and what is booked stays."""
    asked.use(MIDNIGHT, 10)
    asked.side.fail(unavailable())
    asked.world.clock.set(MIDNIGHT + HOUR)
    await hours(asked, 0)
    async with asked_world(asked.world, queries=False) as without:
        without.world.clock.set(MIDNIGHT + 2 * HOUR)
        await without.world.deliver(
            {
                "value": "10",
                "windowStart": (MIDNIGHT + HOUR).isoformat(),
                "windowEnd": (MIDNIGHT + 2 * HOUR).isoformat(),
            },
            aggregation="AVG",
        )
        await without.months.settle()
        assert await without.world.parked() == {
            "query_unanswered": 1,
            "aggregation_unsupported": 1,
        }


async def test_two_queriers_at_once(asked: Asked) -> None:
    asked.use(MIDNIGHT, 10)
    asked.world.clock.set(MIDNIGHT + HOUR)
    [message] = asked.side.webhooks("tokens", "HOUR", MIDNIGHT, MIDNIGHT + HOUR)
    await asked.world.deliver(body=message.body)
    await asked.months.settle()
    assert sorted(await asyncio.gather(asked.querier.ask(), asked.querier.ask())) == [0, 1]
    await asked.settle()
    assert await periods(asked) == [(FIRST, 10, "booked")]


async def test_under_hold_a_correction_in_a_closed_period_is_held(unmapped: World) -> None:
    await unmapped.apply(ONE_METER)
    async with asked_world(unmapped, policy=LatePolicy.HOLD) as asked:
        asked.side.meter("tokens", "MIN")
        asked.use(MIDNIGHT, 10)
        unmapped.clock.set(MIDNIGHT + HOUR)
        await hours(asked, 0)
        unmapped.clock.set(BOUNDARY + timedelta(hours=2))
        await asked.begin(BOUNDARY, LAST)
        asked.use(MIDNIGHT + MINUTE, 4, arrived=unmapped.clock.now())
        await hours(asked, 0)
        # The window itself is too late to have the period asked for again.
        assert await unmapped.parked() == {"period_closed": 1}
        assert await asked.billed() == {FIRST: 10}


UPGRADED = """
meters: [{meter: tokens, price: price_1, whole_period: true}]
subjects:
  - {subject: customer-1, subscription: sub_1, valid_to: "2026-03-09T03:00:00Z"}
  - {subject: customer-1, subscription: sub_2, valid_from: "2026-03-09T03:00:00Z"}
"""
UPGRADE = MIDNIGHT + 3 * HOUR


async def uses(asked: Asked, *numbers: int) -> None:
    """In each of these hours something else is used once; the hour is told when it is over."""
    for number in numbers:
        asked.use(MIDNIGHT + number * HOUR + MINUTE, number)
        asked.world.clock.set(MIDNIGHT + (number + 1) * HOUR)
        await hours(asked, number)


@pytest.mark.parametrize(("aggregation", "whole"), [("UNIQUE_COUNT", 6), ("AVG", 3), ("MIN", 1)])
async def test_a_period_that_ends_later_has_one_value(
    asked: Asked, aggregation: str, whole: int
) -> None:
    """A trial is extended: the same start, another end."""
    asked.side.meter("tokens", aggregation)
    await uses(asked, 1, 2)
    await asked.begin(FIRST, LAST)
    await uses(asked, 3, 4, 5, *([6] if aggregation == "UNIQUE_COUNT" else []))
    [period] = await asked.windows("period")
    assert (period["window_start"], period["window_end"]) == (FIRST, LAST)
    assert await asked.billed() == {FIRST: whole}
    [known] = await asked.world.rows("select period_end from item_periods")
    assert known["period_end"] == LAST


async def test_a_period_that_ended_sooner_is_asked_for_up_to_there(asked: Asked) -> None:
    """The anchor is moved, and what is before it comes again with another value."""
    asked.side.meter("tokens", "UNIQUE_COUNT")
    await uses(asked, 0, 1, 2)
    await asked.begin(UPGRADE, LAST)
    await uses(asked, 3, 4, 5)
    assert await asked.billed() == {FIRST: 3, UPGRADE: 3}
    asked.use(UPGRADE - 2 * MINUTE, 2)
    asked.use(UPGRADE - MINUTE, 99)
    asked.world.clock.set(MIDNIGHT + 9 * HOUR)
    await hours(asked, 2)
    assert await periods(asked) == [(FIRST, 4, "booked"), (UPGRADE, 3, "booked")]
    assert await asked.months.carries() == [1]
    assert await asked.billed() == {FIRST: 3, UPGRADE: 4}


async def test_a_moved_anchor_that_is_learned_of_late(asked: Asked) -> None:
    """What was asked for with the hours after it is asked for without them."""
    asked.side.meter("tokens", "UNIQUE_COUNT")
    await uses(asked, 0, 1, 2, 3)
    assert await asked.billed() == {FIRST: 4}
    asked.world.clock.set(MIDNIGHT + 4 * HOUR + MINUTE)
    await asked.begin(UPGRADE, LAST)
    await asked.settle()
    await uses(asked, 4, 5, 6)
    assert await periods(asked) == [(FIRST, 3, "booked"), (UPGRADE, 4, "booked")]
    # Stripe took the fourth before: it is owed, and shown.
    assert await asked.billed() == {FIRST: 4, UPGRADE: 4}
    assert await asked.months.held() == {"credit_due": "1 unit billed too much"}


async def book_hour(asked: Asked, number: int) -> None:
    """An hour is told, asked for and booked; nothing is sent."""
    start = MIDNIGHT + number * HOUR
    for message in asked.side.webhooks("tokens", "HOUR", start, start + HOUR):
        await asked.world.deliver(body=message.body)
    for _ in range(3):
        await asked.months.replica.book()
        await asked.querier.ask()
    await asked.months.replica.book()


@pytest.mark.parametrize("begins", [FIRST, UPGRADE])
async def test_each_subscription_is_billed_for_the_time_it_pays_for(
    unmapped: World, begins: datetime
) -> None:
    await unmapped.apply(UPGRADED)
    unmapped.stripe.held["sub_2"] = snapshot(
        item("si_2", period_start=begins, period_end=LAST), name="sub_2"
    )
    async with asked_world(unmapped) as asked:
        asked.side.meter("tokens", "UNIQUE_COUNT")
        await asked.months.replica.read(["sub_2"])
        for hour in range(7):
            asked.use(MIDNIGHT + hour * HOUR + MINUTE, hour)
            unmapped.clock.set(MIDNIGHT + (hour + 1) * HOUR)
            await book_hour(asked, hour)
        # And once more one of before: each stays with its own.
        asked.use(MIDNIGHT + HOUR + 2 * MINUTE, 99)
        unmapped.clock.set(MIDNIGHT + 8 * HOUR)
        await book_hour(asked, 1)
        rows = await unmapped.rows(
            "select r.subscription_item as item, r.wanted_quantity as wanted, w.window_start, "
            "w.window_end from usage_records r join usage_windows w on w.usage_record_id = r.id "
            "order by item"
        )
        assert [tuple(row.values()) for row in rows] == [
            ("si_1", 4, FIRST, UPGRADE),
            ("si_2", 4, UPGRADE, LAST),
        ]


async def test_a_trigger_that_comes_with_the_answer_asks_once_more(asked: Asked) -> None:
    """Both in one batch: the answer of before must not pass for the new one."""
    asked.side.meter("tokens", "UNIQUE_COUNT")
    asked.use(MIDNIGHT, 10)
    asked.world.clock.set(MIDNIGHT + HOUR)
    for hour in (0, 1):
        start = MIDNIGHT + hour * HOUR
        asked.use(start + MINUTE, hour)
        asked.world.clock.set(start + HOUR)
        for message in asked.side.webhooks("tokens", "HOUR", start, start + HOUR):
            await asked.world.deliver(body=message.body)
        if hour == 0:
            await asked.months.settle()
            assert await asked.querier.ask() == 1
    await asked.settle()
    assert await periods(asked) == [(FIRST, 3, "booked")]
    assert len(asked.side.requests) == 2
