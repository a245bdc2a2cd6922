"""Windows over a period's boundary: each part in its own period, and nothing twice or lost."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from app.db import transaction
from app.ledger import questions
from app.ledger.querying import ASK_AGAIN, PATIENCE, Querier, divided, undivided
from app.ledger.questions import LEASE
from app.ledger.unforeseen import UNFORESEEN_RETRY
from app.mapping.models import LatePolicy
from tests.ledger.asked import (
    BOUNDARY,
    DAY_LONG,
    FIRST,
    LAST,
    MIDNIGHT,
    MINUTE,
    SECOND,
    Asked,
    asked_world,
)
from tests.ledger.months import Line
from tests.ledger.world import ONE_CUSTOMER, World
from tests.mapping.stripe_side import HOUR, item, snapshot
from tests.openmeter_side.answers import unavailable
from tests.openmeter_side.serving import client_of

AFTER = MIDNIGHT + DAY_LONG


@pytest.fixture
async def asked(world: World) -> AsyncIterator[Asked]:
    async with asked_world(world) as made:
        yield made


async def over_the_boundary(asked: Asked, *, before: object = 4, after: object = 6) -> None:
    """The day of the boundary is told by one daily window."""
    asked.use(BOUNDARY - SECOND, before)
    asked.use(BOUNDARY, after)
    asked.world.clock.set(AFTER + MINUTE)
    await asked.begin(BOUNDARY, LAST)
    await asked.report(MIDNIGHT, AFTER)


async def parts(asked: Asked) -> list[tuple[datetime, datetime, int | Decimal, str]]:
    return [
        (w["window_start"], w["window_end"], w["value"], w["state"])
        for w in await asked.windows("part")
    ]


def day(value: object) -> dict[str, Any]:
    """An entry of `usage`: the day of the boundary."""
    return {
        "value": str(value),
        "windowStart": MIDNIGHT.isoformat(),
        "windowEnd": AFTER.isoformat(),
    }


async def tell_day(asked: Asked, value: object, **members: Any) -> None:
    """The day's window is told with this value, whatever OpenMeter holds."""
    await asked.world.deliver(day(value), **members)
    await asked.settle()


async def test_each_part_is_booked_in_its_own_period(asked: Asked) -> None:
    await over_the_boundary(asked)
    assert await parts(asked) == [
        (MIDNIGHT, BOUNDARY, Decimal(4), "booked"),
        (BOUNDARY, AFTER, Decimal(6), "booked"),
    ]
    first, last = await asked.windows("part")
    assert (first["period_start"], last["period_start"]) == (FIRST, BOUNDARY)
    assert first["second"] == int(BOUNDARY.timestamp()) - 1
    [whole] = await asked.windows("webhook")
    assert (whole["state"], whole["reason"], whole["usage_record_id"]) == (
        "covered",
        "in_parts",
        None,
    )
    # It came eleven hours after the boundary: the first part is late, and carried.
    assert await asked.billed() == {BOUNDARY: 10}
    assert await asked.months.carries() == [4]


async def test_the_first_part_is_taken_while_its_period_takes_usage(world: World) -> None:
    async with asked_world(world, grace=HOUR) as asked:
        asked.use(BOUNDARY - SECOND, 4)
        asked.use(BOUNDARY + MINUTE, 6)
        world.clock.set(BOUNDARY.replace(hour=14, minute=0, second=5))
        await asked.begin(BOUNDARY, LAST)
        await asked.report(MIDNIGHT + 13 * HOUR, MIDNIGHT + 14 * HOUR, "HOUR")
        assert await asked.billed() == {FIRST: 4, BOUNDARY: 6}
        assert await asked.months.carries() == []


@pytest.mark.parametrize(
    ("before", "after"), [(0, 5), (5, 0), ("0.25", "0.5"), ("-3", 7), (7, "-3")]
)
async def test_what_the_parts_come_to_is_what_the_window_said(
    asked: Asked, before: object, after: object
) -> None:
    await over_the_boundary(asked, before=before, after=after)
    values = [value for _, _, value, _ in await parts(asked)]
    assert values == [Decimal(str(before)), Decimal(str(after))]


@pytest.mark.parametrize("value", [12, 7, 3, 0])
async def test_a_correction_revises_the_parts_and_comes_back(asked: Asked, value: int) -> None:
    await over_the_boundary(asked)
    before = await parts(asked)
    await tell_day(asked, value)
    assert [(start, v) for start, _, v, _ in await parts(asked)] == [
        (MIDNIGHT, Decimal(min(value, 4))),
        (BOUNDARY, Decimal(max(value - 4, 0))),
    ]
    assert await asked.wanted() == value
    await tell_day(asked, 10)
    assert await parts(asked) == before
    assert await asked.billed() == {BOUNDARY: 10}
    assert await asked.wanted() == 10


async def test_a_correction_of_the_first_half_reaches_the_first_part(asked: Asked) -> None:
    await over_the_boundary(asked)
    asked.use(MIDNIGHT + HOUR, 5, arrived=asked.world.clock.now())
    asked.world.clock.advance(HOUR)
    await asked.report(MIDNIGHT, AFTER)
    assert [v for *_, v, _ in await parts(asked)] == [Decimal(9), Decimal(6)]
    assert await asked.months.carries() == [4, 5]
    first, last = await asked.windows("part")
    [whole] = await asked.windows("webhook")
    assert first["svix_id"] == last["svix_id"] == whole["svix_id"]
    history = await asked.world.rows(
        "select v.value, v.svix_id, v.kept_at from window_revisions v "
        "join usage_windows w on w.id = v.usage_window_id where w.source = 'part'"
    )
    assert [(row["value"], row["svix_id"]) for row in history] == [(Decimal(4), "msg_000001")]
    assert history[0]["kept_at"] == asked.world.clock.now()


async def test_after_the_next_roll_over_the_boundary_is_the_same(asked: Asked) -> None:
    await over_the_boundary(asked)
    asked.world.clock.set(LAST + 2 * HOUR)
    await asked.begin(LAST, LAST + 30 * DAY_LONG)
    await tell_day(asked, 11)
    assert [(start, v) for start, _, v, _ in await parts(asked)] == [
        (MIDNIGHT, Decimal(4)),
        (BOUNDARY, Decimal(7)),
    ]
    assert await asked.wanted() == 11
    assert await asked.billed() == {BOUNDARY: 10, LAST: 1}


async def test_after_a_plan_change_both_parts_stay_where_they_are(asked: Asked) -> None:
    await over_the_boundary(asked)
    before = [w["usage_record_id"] for w in await asked.windows("part")]
    moved = item("si_2", period_start=BOUNDARY + 2 * DAY_LONG, period_end=LAST)
    asked.world.stripe.held["sub_1"] = snapshot(moved)
    asked.world.clock.set(BOUNDARY + 3 * DAY_LONG)
    await asked.months.replica.read(["sub_1"])
    await tell_day(asked, 11)
    assert [w["usage_record_id"] for w in await asked.windows("part")] == before
    assert await asked.wanted() == 11


async def test_groups_are_asked_for_apart(asked: Asked) -> None:
    asked.side.meter("tokens", group_by=("model",))
    for model, value in (("a", 1), ("b", 10), ("", 100)):
        asked.use(BOUNDARY - MINUTE, value, group={"model": model})
        asked.use(BOUNDARY + MINUTE, 2 * value, group={"model": model})
    asked.world.clock.set(AFTER + MINUTE)
    await asked.begin(BOUNDARY, LAST)
    await asked.report(MIDNIGHT, AFTER, group_by=["model"])
    found = await parts(asked)
    assert sorted(value for start, _, value, _ in found if start == MIDNIGHT) == [1, 10, 100]
    assert sorted(value for start, _, value, _ in found if start == BOUNDARY) == [2, 20, 200]
    assert await asked.wanted() == 333


@pytest.mark.parametrize(
    ("aggregation", "usage", "values"),
    [("MAX", "max", [40, 70]), ("LATEST", "last_during_period", [30, 50])],
)
async def test_what_does_not_add_up_is_asked_for_twice(
    world: World, aggregation: str, usage: str, values: list[int]
) -> None:
    async with asked_world(world, policy=LatePolicy.HOLD) as asked:
        asked.side.meter("tokens", aggregation)
        await asked.begin(FIRST, BOUNDARY, aggregate_usage=usage)
        world.clock.set(MIDNIGHT - HOUR)
        asked.use(MIDNIGHT - 2 * HOUR, 1)
        await asked.report(MIDNIGHT - DAY_LONG, MIDNIGHT)  # the period is known
        for minutes, value in ((-20, 40), (-10, 30), (10, 70), (20, 50)):
            asked.use(BOUNDARY + minutes * MINUTE, value)
        world.clock.set(AFTER + MINUTE)
        await asked.begin(BOUNDARY, LAST, aggregate_usage=usage)
        await asked.report(MIDNIGHT, AFTER)
        found = await parts(asked)
        assert [v for *_, v, _ in found] == values
        assert [state for *_, state in found] == ["parked", "booked"]
        assert await world.parked() == {"period_closed": 1}


async def test_a_closed_period_with_the_policy_hold_parks_the_first_part(world: World) -> None:
    async with asked_world(world, policy=LatePolicy.HOLD) as asked:
        await over_the_boundary(asked)
        assert [state for *_, state in await parts(asked)] == ["parked", "booked"]
        assert await world.parked() == {"period_closed": 1}
        assert await asked.billed() == {BOUNDARY: 6}
        await tell_day(asked, 12)
        assert [v for *_, v, _ in await parts(asked)] == [4, 8]
        assert await asked.billed() == {BOUNDARY: 8}


async def test_a_window_over_two_boundaries_is_divided_twice(asked: Asked) -> None:
    middle = BOUNDARY + 2 * HOUR
    asked.use(BOUNDARY - SECOND, 1)
    asked.use(BOUNDARY + SECOND, 20)
    asked.use(middle + SECOND, 300)
    await asked.begin(BOUNDARY, middle)
    asked.world.clock.set(AFTER + MINUTE)
    await asked.begin(middle, LAST)
    await asked.report(MIDNIGHT, AFTER)
    counted = [found for found in await parts(asked) if found[3] == "booked"]
    assert [(start, end, value) for start, end, value, _ in counted] == [
        (MIDNIGHT, BOUNDARY, 1),
        (BOUNDARY, middle, 20),
        (middle, AFTER, 300),
    ]
    assert await asked.wanted() == 321
    await tell_day(asked, 325)
    assert await asked.wanted() == 325
    asked.use(BOUNDARY - SECOND, 4, arrived=asked.world.clock.now())
    await tell_day(asked, 330)
    assert await asked.wanted() == 330
    counted = [found for found in await parts(asked) if found[3] == "booked"]
    assert [value for *_, value, _ in counted] == [5, 20, 305]


async def test_what_nobody_answers_is_billed_whole_in_its_last_part(asked: Asked) -> None:
    asked.side.fail(unavailable())
    await over_the_boundary(asked)
    assert [state for *_, state in await parts(asked)] == ["pending", "pending"]
    waited = timedelta(0)
    while waited < PATIENCE:
        assert await asked.billed() == {}
        asked.world.clock.advance(ASK_AGAIN)
        waited += ASK_AGAIN
        await asked.settle()
    first, last = await asked.windows("part")
    assert (first["value"], last["value"]) == (0, 10)
    assert (last["slipped_from"], last["slipped_to"]) == (MIDNIGHT, BOUNDARY)
    assert (first["slipped_from"], first["slipped_to"]) == (None, None)
    assert await asked.billed() == {BOUNDARY: 10}
    # A correction asks again: what slipped goes where it belongs.
    asked.side.heal()
    await tell_day(asked, 11)
    first, last = await asked.windows("part")
    assert (first["value"], last["value"]) == (4, 7)
    assert (last["slipped_from"], last["slipped_to"]) == (None, None)
    assert await asked.wanted() == 11


@pytest.mark.parametrize("aggregation", ["MAX", "LATEST"])
async def test_without_an_answer_nothing_is_lost_that_does_not_add_up(
    world: World, aggregation: str
) -> None:
    usage = "max" if aggregation == "MAX" else "last_during_period"
    async with asked_world(world, policy=LatePolicy.HOLD, queries=False) as asked:
        await asked.begin(BOUNDARY, LAST, aggregate_usage=usage)
        world.rules = replace(world.rules, queries=True)
        world.clock.set(AFTER + MINUTE)
        async with world.replica() as replica:
            await world.deliver(
                day(50),
                aggregation=aggregation,
            )
            await replica.read(["sub_1"])
            await replica.book()
        assert [state for *_, state in await parts(asked)] == ["pending", "pending"]
        await asked.settle()  # by a replica that cannot ask
        assert [value for *_, value, _ in await parts(asked)] == [0, 50]
        assert await asked.billed() == {BOUNDARY: 50}


async def test_openmeter_configured_no_more(asked: Asked) -> None:
    await over_the_boundary(asked)
    world = asked.world
    world.rules = replace(world.rules, queries=False)
    requests = len(asked.side.requests)
    async with world.replica() as replica:
        asked.months.replica = replica
        for value, first, last in ((15, 4, 11), (2, 2, 0), (15, 2, 13)):
            await world.deliver(day(value))
            await asked.months.settle()
            found = await asked.windows("part")
            assert [w["value"] for w in found] == [first, last]
            assert {w["state"] for w in found} == {"booked"}
            assert {w["slipped_from"] for w in found} == {None}
            assert await asked.wanted() == value
    assert len(asked.side.requests) == requests


async def test_a_part_with_parts_is_settled_without_openmeter(asked: Asked) -> None:
    middle = BOUNDARY + 2 * HOUR
    await asked.begin(BOUNDARY, middle)
    asked.world.clock.set(AFTER + MINUTE)
    await asked.begin(middle, LAST)
    for second, value in ((BOUNDARY - SECOND, 1), (BOUNDARY, 20), (middle, 300)):
        asked.use(second, value)
    await asked.report(MIDNIGHT, AFTER)
    asked.world.rules = replace(asked.world.rules, queries=False)
    async with asked.world.replica() as replica:
        asked.months.replica = replica
        for value in (400, 3, 321):
            await asked.world.deliver(day(value))
            await asked.months.settle()
            assert sum(w["value"] for w in await asked.windows("part") if w["reason"] is None) == (
                value
            )


async def test_a_window_revised_while_it_is_asked_for_is_asked_for_again(asked: Asked) -> None:
    asked.side.fail(unavailable(), times=1)
    await over_the_boundary(asked)
    asked.world.clock.advance(ASK_AGAIN)
    async with transaction(asked.world.engine) as connection:
        [question] = await questions.claim(connection, asked.world.clock.now())
    await asked.world.deliver(day(13))
    await asked.months.settle()
    async with transaction(asked.world.engine) as connection:
        await questions.write_values(
            connection, question, [Decimal(4), Decimal(6)], now=asked.world.clock.now()
        )
    assert [state for *_, state in await parts(asked)] == ["pending", "pending"]
    await asked.settle()
    assert [value for *_, value, _ in await parts(asked)] == [4, 9]


async def test_who_asked_is_killed_and_another_one_asks(asked: Asked) -> None:
    asked.side.fail(unavailable(), times=1)
    await over_the_boundary(asked)
    asked.world.clock.advance(ASK_AGAIN)
    async with transaction(asked.world.engine) as connection:
        assert await questions.claim(connection, asked.world.clock.now())
    await asked.settle()
    assert [state for *_, state in await parts(asked)] == ["pending", "pending"]
    asked.world.clock.advance(LEASE)
    await asked.settle()
    assert [value for *_, value, _ in await parts(asked)] == [4, 6]
    assert await asked.wanted() == 10


async def test_two_queriers_ask_each_question_once(asked: Asked) -> None:
    asked.side.meter("tokens", group_by=("model",))
    for number in range(60):
        asked.use(BOUNDARY - MINUTE, 1, group={"model": f"m{number}"})
        asked.use(BOUNDARY + MINUTE, 1, group={"model": f"m{number}"})
    asked.world.clock.set(AFTER + MINUTE)
    await asked.begin(BOUNDARY, LAST)
    [message] = asked.side.webhooks("tokens", "DAY", MIDNIGHT, AFTER, ["model"])
    await asked.world.deliver(body=message.body)
    await asked.months.settle()
    async with asked.world.replica() as other, client_of(asked.side) as client:
        second = Querier(other.engine, asked.world.clock, client)
        while sum(await asyncio.gather(asked.querier.ask(), second.ask())):
            continue
        await asked.settle()
    assert len(asked.side.requests) == 120
    assert await asked.wanted() == 120
    assert {state for *_, state in await parts(asked)} == {"booked"}


async def test_what_openmeter_cannot_be_asked_is_billed_whole_at_once(asked: Asked) -> None:
    asked.world.clock.set(AFTER + MINUTE)
    await asked.begin(BOUNDARY, LAST)
    start = MIDNIGHT + timedelta(milliseconds=250)
    await asked.world.deliver(
        {"value": "5", "windowStart": start.isoformat(), "windowEnd": AFTER.isoformat()}
    )
    asked.use(BOUNDARY - MINUTE, 3, subject="customer-1")
    await asked.settle()
    assert [value for *_, value, _ in await parts(asked)] == [0, 5]
    assert await asked.billed() == {BOUNDARY: 5}


@pytest.mark.parametrize(
    ("aggregation", "whole", "known", "values"),
    [
        ("SUM", 10, [0, 0], [0, 10]),
        ("SUM", 10, [4, 3], [4, 6]),
        ("COUNT", 2, [4, 3], [2, 0]),
        ("SUM", 2, [4, -2], [4, -2]),
        ("SUM", -2, [0, 0], [0, -2]),
        ("SUM", 1, [2, 3, 4], [1, 0, 0]),
        ("MAX", 10, [0, 0], [0, 10]),
        ("MAX", 10, [4, 9], [4, 10]),
        ("MAX", 10, [10, 9], [10, 9]),
        ("MAX", 8, [10, 9], [8, 8]),
        ("MAX", 9, [4, 10], [4, 9]),
        ("MAX", -5, [0, 0], [-5, -5]),
        ("LATEST", 10, [4, 9], [4, 10]),
    ],
)
def test_undivided(aggregation: str, whole: int, known: list[int], values: list[int]) -> None:
    found = undivided(aggregation, Decimal(whole), [Decimal(value) for value in known])
    assert found == values


def test_divided_counts_a_span_without_usage_as_nothing() -> None:
    assert divided("SUM", Decimal(5), [None, None]) == [0, 5]
    assert divided("MAX", Decimal(5), [None, Decimal(5)]) == [0, 5]


async def test_a_line_for_each_period(asked: Asked) -> None:
    """A window wholly before the boundary is late as a whole, and not divided."""
    asked.use(BOUNDARY - 2 * HOUR, 3)
    asked.world.clock.set(AFTER + MINUTE)
    await asked.begin(BOUNDARY, LAST)
    await asked.report(MIDNIGHT, MIDNIGHT + 13 * HOUR, "HOUR")
    assert await asked.windows("part") == []
    assert await asked.months.months() == {BOUNDARY: Line(3)}


@pytest.mark.parametrize("bounds", [(MIDNIGHT, BOUNDARY), (BOUNDARY, AFTER)])
@pytest.mark.parametrize("before", [True, False])
async def test_a_window_with_the_bounds_of_a_part_is_not_taken_for_it(
    unmapped: World, bounds: tuple[datetime, datetime], before: bool
) -> None:
    """Two reports on one meter: what the other one tells is parked, and the day divided."""
    start, end = bounds
    other = {"value": "7", "windowStart": start.isoformat(), "windowEnd": end.isoformat()}
    async with asked_world(unmapped) as asked:
        asked.use(BOUNDARY - SECOND, 4)
        asked.use(BOUNDARY, 6)
        unmapped.clock.set(AFTER + MINUTE)
        await asked.begin(BOUNDARY, LAST)
        if not before:
            await unmapped.apply(ONE_CUSTOMER)
        await tell_day(asked, 10)
        await unmapped.deliver(other)
        await asked.settle()
        if before:
            await unmapped.apply(ONE_CUSTOMER)
            await asked.settle()
        assert await parts(asked) == [
            (MIDNIGHT, BOUNDARY, Decimal(4), "booked"),
            (BOUNDARY, AFTER, Decimal(6), "booked"),
        ]
        whole, told = sorted(await asked.windows("webhook"), key=lambda w: w["id"])
        assert (told["state"], told["reason"]) == ("parked", "overlaps_window")
        assert f"overlaps window {whole['id']} " in told["detail"]
        assert await asked.billed() == {BOUNDARY: 10}
        assert await asked.months.carries() == [4]
        await tell_day(asked, 12)
        assert [value for *_, value, _ in await parts(asked)] == [4, 8]


async def test_a_window_that_lacks_a_part_is_billed_whole_and_says_so(asked: Asked) -> None:
    asked.side.fail(unavailable(), times=1)
    await over_the_boundary(asked)
    await asked.world.run(
        "delete from usage_windows where source = 'part' and window_start = :start", start=MIDNIGHT
    )
    asked.world.clock.advance(ASK_AGAIN)
    requests = len(asked.side.requests)
    await asked.settle()
    [last] = await asked.windows("part")
    assert (last["value"], last["state"]) == (10, "booked")
    assert (last["slipped_from"], last["slipped_to"]) == (MIDNIGHT, BOUNDARY)
    assert len(asked.side.requests) == requests


async def test_parts_wait_for_a_window_that_was_set_aside(asked: Asked) -> None:
    """They are not claimed again and again meanwhile, and are asked for when it is released."""
    asked.side.fail(unavailable(), times=1)
    await over_the_boundary(asked)
    [whole] = await asked.windows("webhook")
    await asked.world.run(
        "update usage_windows set state = 'parked', reason = 'booking_failed' where id = :id",
        id=whole["id"],
    )
    asked.world.clock.advance(LEASE)
    before = [w["retry_at"] for w in await asked.windows("part")]
    await asked.settle()
    found = await asked.windows("part")
    assert [(w["state"], w["retry_at"]) for w in found] == [("pending", at) for at in before]
    await asked.world.run(
        "update usage_windows set state = 'pending', reason = null where id = :id", id=whole["id"]
    )
    await asked.settle()
    assert [(value, state) for *_, value, state in await parts(asked)] == [
        (4, "booked"),
        (6, "booked"),
    ]


async def test_a_question_that_fails_as_nobody_foresaw_keeps_no_other_one(
    asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked.side.meter("tokens", group_by=("model",))
    for model in ("a", "b"):
        asked.use(BOUNDARY, 1, group={"model": model})
    query = asked.client.query

    async def fails(meter: str, **named: Any) -> Any:
        if named["filter_group_by"] == {"model": "a"}:
            raise KeyError
        return await query(meter, **named)

    monkeypatch.setattr(asked.client, "query", fails)
    asked.world.clock.set(AFTER + MINUTE)
    await asked.begin(BOUNDARY, LAST)
    await asked.report(MIDNIGHT, AFTER, group_by=["model"])
    found = {
        (w["group_by"]["model"], w["state"], w["retry_at"]) for w in await asked.windows("part")
    }
    later = asked.world.clock.now() + UNFORESEEN_RETRY
    assert found == {("a", "pending", later), ("b", "booked", None)}
