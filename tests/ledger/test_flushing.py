"""The last minutes of a period: on its bill before any window tells them, and counted once."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import transaction
from app.errors import DatabaseUnavailable
from app.ledger import flushes
from app.ledger.flushes import LEASE
from app.ledger.flushing import Flusher, next_flush
from app.ledger.series import SeriesKey, SeriesWindow, lock_series
from app.ledger.unforeseen import UNFORESEEN_RETRY
from app.mapping.models import LatePolicy
from app.openmeter.api_answers import QueryRow
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
from tests.ledger.test_replicas import waiting_for_locks
from tests.ledger.world import World
from tests.mapping.stripe_side import HOUR, item, snapshot
from tests.openmeter_side.answers import unavailable
from tests.openmeter_side.serving import client_of

NOON = MIDNIGHT + 12 * HOUR
ONE = MIDNIGHT + 13 * HOUR  # the last full hour of the period
TWO = MIDNIGHT + 14 * HOUR
BEFORE = timedelta(minutes=3)


@pytest.fixture
async def asked(world: World) -> AsyncIterator[Asked]:
    async with asked_world(world) as made:
        yield made


async def told_until_noon(asked: Asked) -> None:
    """What was used up to noon is told, by the hour."""
    asked.use(NOON - MINUTE, 1000)
    asked.world.clock.set(NOON + SECOND)
    await asked.report(MIDNIGHT, NOON, "HOUR")
    assert await asked.billed() == {FIRST: 1000}


async def roll_over(asked: Asked, after: timedelta = 2 * MINUTE) -> None:
    """Stripe's next period has begun."""
    asked.world.clock.set(max(BOUNDARY + after, asked.world.clock.now()))
    await asked.begin(BOUNDARY, LAST)


@pytest.mark.parametrize(
    ("left", "cancels", "after"),
    [
        (180, False, -90),
        (90, False, -45),
        (11, False, -5.5),
        (10, False, 10),
        (1, False, 10),
        (10, True, 60),
        (0, False, 60),
        (-10, False, 60),
        (-60, False, 120),
        (-3600, False, 7200),
        (-10, True, 60),
    ],
)
def test_next_flush(left: float, cancels: bool, after: float) -> None:
    now = BOUNDARY - timedelta(seconds=left)
    assert next_flush(now, BOUNDARY, cancels=cancels) == BOUNDARY + timedelta(seconds=after)


@pytest.mark.parametrize("size", ["HOUR", "DAY"])
async def test_the_last_minutes_are_on_the_bill_and_are_told_later(asked: Asked, size: str) -> None:
    if size == "HOUR":
        await told_until_noon(asked)
    else:
        asked.use(MIDNIGHT - MINUTE, 1000)
        await asked.report(MIDNIGHT - DAY_LONG, MIDNIGHT)
    for minutes in range(1, 60):
        asked.use(BOUNDARY - minutes * MINUTE, 1)
    asked.use(BOUNDARY - SECOND, 20)
    asked.use(BOUNDARY, 300)
    assert await asked.flush_until(BOUNDARY - SECOND) == 6
    # The last flush before the end was six seconds before it.
    assert await asked.billed() == {FIRST: 1059}
    [provisional] = await asked.provisional()
    assert (provisional["window_start"], provisional["window_end"]) == (
        NOON if size == "HOUR" else MIDNIGHT,
        BOUNDARY,
    )
    # Its record stands where it was when it was first asked.
    assert provisional["second"] == int((BOUNDARY - BEFORE).timestamp()) - 1
    record = provisional["usage_record_id"]
    await asked.flush_until(BOUNDARY + 20 * SECOND)
    assert await asked.billed() == {FIRST: 1079}
    assert [w["usage_record_id"] for w in await asked.provisional()] == [record]
    await roll_over(asked)
    if size == "HOUR":
        asked.world.clock.set(TWO + MINUTE)
        await asked.report(NOON, ONE, "HOUR")
        await asked.report(ONE, TWO, "HOUR")
    else:
        asked.world.clock.set(MIDNIGHT + DAY_LONG + MINUTE)
        await asked.report(MIDNIGHT, MIDNIGHT + DAY_LONG)
    assert await asked.billed() == {FIRST: 1079, BOUNDARY: 300}
    assert await asked.months.carries() == []
    assert await asked.provisional() == []
    assert await asked.months.held() == {}


async def test_in_the_closed_period_only_the_difference_is_carried(asked: Asked) -> None:
    await told_until_noon(asked)
    asked.use(BOUNDARY - MINUTE, 40)
    asked.use(BOUNDARY - 2 * MINUTE, 2, arrived=BOUNDARY + HOUR)
    await asked.flush_until(BOUNDARY + 20 * SECOND)
    await roll_over(asked, 2 * HOUR)
    await asked.report(NOON, TWO, "HOUR")
    assert await asked.billed() == {FIRST: 1040, BOUNDARY: 2}
    assert await asked.months.carries() == [2]
    assert await asked.provisional() == []


async def test_what_was_flushed_too_much_is_owed(asked: Asked) -> None:
    await told_until_noon(asked)
    asked.use(BOUNDARY - MINUTE, 40)
    await asked.flush_until(BOUNDARY + 20 * SECOND)
    await roll_over(asked, 2 * HOUR)
    # OpenMeter has lost some of it since; of the hour before, where nothing was used, nobody tells.
    asked.side.start_over()
    asked.side.meter("tokens")
    asked.use(BOUNDARY - MINUTE, 30)
    await asked.report(NOON, TWO, "HOUR")
    assert await asked.provisional() == []
    assert await asked.wanted() == 1030
    assert list(await asked.months.held()) == ["credit_due"]


@pytest.mark.parametrize("first", ["earlier", "later"])
async def test_the_regular_windows_may_come_in_any_order(asked: Asked, first: str) -> None:
    await told_until_noon(asked)
    asked.use(ONE - MINUTE, 40)
    asked.use(BOUNDARY - MINUTE, 2)
    asked.use(BOUNDARY + MINUTE, 500)
    await asked.flush_until(BOUNDARY + 20 * SECOND)
    assert await asked.billed() == {FIRST: 1042}
    await roll_over(asked, HOUR)
    spans = [(NOON, ONE), (ONE, TWO)]
    for start, end in spans if first == "earlier" else spans[::-1]:
        await asked.report(start, end, "HOUR")
        assert (await asked.billed())[FIRST] == 1042
    assert await asked.billed() == {FIRST: 1042, BOUNDARY: 500}
    assert await asked.months.carries() == []
    assert await asked.provisional() == []


@pytest.mark.parametrize("together", [True, False])
async def test_the_earlier_hour_while_the_part_is_not_answered_yet(
    asked: Asked, together: bool
) -> None:
    """The rest of the provisional window has the bounds of the part that waits."""
    await told_until_noon(asked)
    asked.use(ONE - MINUTE, 40)
    asked.use(BOUNDARY - MINUTE, 2)
    await asked.flush_until(BOUNDARY + 20 * SECOND)
    await roll_over(asked, HOUR)
    asked.side.fail(unavailable())
    if together:
        await asked.report(NOON, TWO, "HOUR")
    else:
        await asked.report(ONE, TWO, "HOUR")
        await asked.report(NOON, ONE, "HOUR")
    assert await asked.world.deliveries() == {"booked": 2 if together else 3}
    assert await asked.billed() == {FIRST: 1042}
    asked.side.heal()
    asked.world.clock.advance(MINUTE)
    await asked.settle()
    assert await asked.billed() == {FIRST: 1042}
    assert await asked.months.carries() == []
    assert await asked.provisional() == []


async def test_groups_that_appear_in_the_last_hour(asked: Asked) -> None:
    asked.side.meter("tokens", group_by=("model",))
    asked.use(NOON - MINUTE, 1000, group={"model": "a"})
    asked.world.clock.set(NOON + SECOND)
    await asked.report(MIDNIGHT, NOON, "HOUR", group_by=["model"])
    asked.use(ONE - 30 * MINUTE, 7, group={"model": "a"})
    asked.use(ONE + MINUTE, 40, group={"model": "b"})
    asked.use(BOUNDARY - MINUTE, 2, group={"model": "c"})
    asked.use(BOUNDARY - SECOND, 3, group={"model": "c"})
    await asked.flush_until(BOUNDARY + 20 * SECOND)
    assert await asked.billed() == {FIRST: 1052}
    await roll_over(asked, HOUR)
    await asked.report(NOON, ONE, "HOUR", group_by=["model"])
    await asked.report(ONE, TWO, "HOUR", group_by=["model"])
    assert await asked.billed() == {FIRST: 1052}
    assert await asked.months.carries() == []
    assert await asked.provisional() == []


async def test_an_hour_told_of_one_group_between_two_flushes(asked: Asked) -> None:
    """Of the other group it told nothing: what was flushed of that must not count twice."""
    asked.side.meter("tokens", group_by=("model",))
    end = ONE + MINUTE
    await asked.begin(FIRST, end)
    asked.use(NOON - MINUTE, 1000, group={"model": "a"})
    asked.use(NOON - MINUTE, 1000, group={"model": "b"})
    asked.world.clock.set(NOON + SECOND)
    await asked.report(MIDNIGHT, NOON, "HOUR", group_by=["model"])
    asked.use(ONE - 5 * MINUTE, 7, group={"model": "a"})
    asked.use(ONE - 4 * MINUTE, 30, group={"model": "b"})
    await asked.flush_until(ONE + SECOND)
    assert await asked.billed() == {FIRST: 2037}
    # A filter of the sync withheld the hour of the other group.
    await asked.world.deliver(
        {
            "value": "7",
            "windowStart": NOON.isoformat(),
            "windowEnd": ONE.isoformat(),
            "groupBy": {"model": "a"},
        }
    )
    await asked.settle()
    asked.use(ONE + 30 * SECOND, 500, group={"model": "b"})
    await asked.flush_until(end + 20 * SECOND)
    assert await asked.billed() == {FIRST: 2537}


async def test_a_subject_that_no_window_told_yet_is_not_flushed(asked: Asked) -> None:
    asked.use(BOUNDARY - 5 * MINUTE, 5)
    await asked.flush_until(BOUNDARY + 20 * SECOND)
    assert asked.side.requests == []
    assert await asked.windows("flush") == []


async def test_what_a_delivery_tells_meanwhile_is_not_written_beside_it(
    asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    await told_until_noon(asked)
    asked.use(ONE - MINUTE, 40)
    asked.use(BOUNDARY - 5 * MINUTE, 2)
    asked.world.clock.set(BOUNDARY - BEFORE)

    query = asked.client.query

    async def overtaken(*given: Any, **named: Any) -> tuple[QueryRow, ...]:
        found = await query(*given, **named)
        monkeypatch.undo()
        await asked.report(NOON, ONE, "HOUR")
        return found

    monkeypatch.setattr(asked.client, "query", overtaken)
    assert await asked.flusher.flush() == 0
    await asked.settle()
    assert await asked.windows("flush") == []
    assert await asked.billed() == {FIRST: 1040}
    # It is asked again at once, from where the delivery ends.
    await asked.flush_until(BOUNDARY - BEFORE + 2 * SECOND)
    assert await asked.billed() == {FIRST: 1042}


@pytest.mark.parametrize(
    ("aggregation", "usage", "flushed", "corrected"),
    [("MAX", "max", 90, 95), ("LATEST", "last_during_period", 70, 71)],
)
async def test_what_does_not_add_up(
    world: World, aggregation: str, usage: str, flushed: int, corrected: int
) -> None:
    async with asked_world(world, policy=LatePolicy.HOLD) as asked:
        asked.side.meter("tokens", aggregation)
        await asked.begin(FIRST, BOUNDARY, aggregate_usage=usage)
        asked.use(NOON - MINUTE, 50)
        world.clock.set(NOON + SECOND)
        await asked.report(MIDNIGHT, NOON, "HOUR")
        asked.use(ONE - 2 * MINUTE, 90)
        asked.use(BOUNDARY - 2 * MINUTE, 60)
        asked.use(BOUNDARY - 20 * SECOND, 70)
        await asked.flush_until(BOUNDARY + 20 * SECOND)
        [provisional] = await asked.provisional()
        assert provisional["value"] == flushed
        world.clock.set(BOUNDARY + HOUR)
        await asked.begin(BOUNDARY, LAST, aggregate_usage=usage)
        await asked.report(NOON, TWO, "HOUR")
        assert await asked.provisional() == []
        assert await asked.months.held() == {}
        record = "select max(wanted_quantity) as q, max(reported_quantity) as r from usage_records"
        assert await world.rows(f"{record} where timestamp = {provisional['second']}") == [
            {"q": flushed, "r": flushed}
        ]
        asked.use(BOUNDARY - 10 * SECOND, corrected, arrived=world.clock.now())
        await asked.report(ONE, TWO, "HOUR")
        # The hour's own window has not changed by that unless it is its greatest, or its newest.
        assert list(await asked.months.held()) == ["period_closed"]
        assert await world.rows(f"{record} where timestamp = {provisional['second']}") == [
            {"q": corrected, "r": flushed}
        ]


async def test_with_the_policy_hold_the_difference_is_held(world: World) -> None:
    async with asked_world(world, policy=LatePolicy.HOLD) as asked:
        await told_until_noon(asked)
        asked.use(BOUNDARY - MINUTE, 40)
        asked.use(BOUNDARY - 2 * MINUTE, 2, arrived=BOUNDARY + HOUR)
        await asked.flush_until(BOUNDARY + 20 * SECOND)
        await roll_over(asked, 2 * HOUR)
        await asked.report(NOON, TWO, "HOUR")
        assert await world.parked() == {}
        assert await asked.months.held() == {"period_closed": "2 units more than Stripe took"}
        assert await asked.wanted() == 1042
        assert await asked.provisional() == []


async def test_a_subscription_that_is_cancelled_has_no_flush_after_its_end(asked: Asked) -> None:
    await told_until_noon(asked)
    for members in ({"cancel_at_period_end": True}, {"cancel_at": BOUNDARY - HOUR}):
        held = asked.world.stripe.held["sub_1"]
        asked.world.stripe.held["sub_1"] = replace(held, **members)
        await asked.months.replica.read(["sub_1"])
        [found] = await asked.world.rows("select ends_at, flush_at from subscription_snapshots")
        ends = BOUNDARY - HOUR if "cancel_at" in members else BOUNDARY
        assert (found["ends_at"], found["flush_at"]) == (ends, ends - BEFORE)
    asked.use(ends - MINUTE, 5)
    asked.use(ends - SECOND, 100)
    await asked.flush_until(ends)
    assert await asked.billed() == {FIRST: 1005}
    asked.world.stripe.held["sub_1"] = replace(asked.world.stripe.held["sub_1"], status="canceled")
    requests = len(asked.side.requests)
    await asked.flush_until(ends + HOUR)
    assert len(asked.side.requests) == requests
    [found] = await asked.world.rows("select ends_at, flush_at from subscription_snapshots")
    assert (found["ends_at"], found["flush_at"]) == (None, None)


async def test_a_subscription_that_was_changed_is_flushed_at_its_new_end(asked: Asked) -> None:
    await told_until_noon(asked)
    asked.use(BOUNDARY - 5 * MINUTE, 5)
    # Somebody has put the period's end off, and nobody has read it since.
    asked.world.stripe.held["sub_1"] = snapshot(item(period_start=FIRST, period_end=LAST))
    assert await asked.flush_until(BOUNDARY + HOUR) == 1
    assert await asked.windows("flush") == []
    [found] = await asked.world.rows("select ends_at, flush_at from subscription_snapshots")
    assert (found["ends_at"], found["flush_at"]) == (LAST, LAST - BEFORE)


async def test_the_next_period_is_read_before_the_flush_after_the_end(asked: Asked) -> None:
    await told_until_noon(asked)
    asked.use(BOUNDARY - SECOND, 5)
    await asked.flush_until(BOUNDARY + SECOND)
    assert await asked.billed() == {FIRST: 1000}
    asked.months.grace = 5 * MINUTE
    await roll_over(asked, 3 * SECOND)
    await asked.flush_until(BOUNDARY + 5 * MINUTE)
    assert await asked.billed() == {FIRST: 1005}
    assert await asked.months.carries() == []
    [found] = await asked.world.rows("select ends_at, flush_at from subscription_snapshots")
    assert (found["ends_at"], found["flush_at"]) == (LAST, LAST - BEFORE)


async def test_openmeter_is_down_and_nothing_is_lost(asked: Asked) -> None:
    await told_until_noon(asked)
    asked.use(BOUNDARY - 2 * MINUTE, 5)
    asked.side.fail(unavailable())
    assert await asked.flush_until(BOUNDARY - MINUTE) == 120 // LEASE.seconds + 1
    asked.side.heal()
    await asked.flush_until(BOUNDARY)
    assert await asked.billed() == {FIRST: 1005}


async def test_openmeter_is_down_until_the_period_is_over(asked: Asked) -> None:
    await told_until_noon(asked)
    asked.use(BOUNDARY - 2 * MINUTE, 5)
    asked.side.fail(unavailable())
    await asked.flush_until(BOUNDARY + 2 * MINUTE)
    asked.side.heal()
    await roll_over(asked, 2 * HOUR)
    await asked.report(NOON, TWO, "HOUR")
    assert await asked.billed() == {FIRST: 1000, BOUNDARY: 5}
    assert await asked.wanted() == 1005


async def test_who_flushes_is_killed_and_another_one_does_it(asked: Asked) -> None:
    await told_until_noon(asked)
    asked.use(BOUNDARY - 10 * MINUTE, 5)
    asked.world.clock.set(BOUNDARY - BEFORE)
    async with transaction(asked.world.engine) as connection:
        assert await flushes.claim(connection, asked.world.clock.now()) == ["sub_1"]
    assert await asked.flush() == 0
    asked.world.clock.advance(LEASE)
    assert await asked.flush() == 1
    assert await asked.billed() == {FIRST: 1005}


async def test_two_flushers_at_once(asked: Asked) -> None:
    await told_until_noon(asked)
    asked.use(BOUNDARY - 10 * MINUTE, 5)
    async with asked.world.replica() as other, client_of(asked.side) as client:
        second = Flusher(other.engine, asked.world.clock, client, other.mappings, other.snapshots)
        asked.world.clock.set(BOUNDARY - BEFORE)
        assert await asked.flusher.flush() + await second.flush() == 1
        # The lease of the first one was too short: both do it.
        await asked.world.run("update subscription_snapshots set flush_at = :at", at=NOON)
        assert await second.flush() == 0
    await asked.settle()
    assert await asked.billed() == {FIRST: 1005}


async def test_a_meter_that_openmeter_cannot_be_asked_about(asked: Asked) -> None:
    await told_until_noon(asked)
    asked.use(BOUNDARY - 10 * MINUTE, 5)
    await asked.world.deliver(
        {
            "value": "1",
            "windowStart": (NOON - HOUR).isoformat(),
            "windowEnd": NOON.isoformat(),
            "groupBy": {"a[b]": "c"},
        },
        subject="customer-1",
        meter="tokens",
    )
    await asked.settle()
    await asked.flush_until(BOUNDARY)
    assert await asked.billed() == {FIRST: 1001}


async def test_a_flush_that_the_booker_sees_after_the_roll_over(asked: Asked) -> None:
    await told_until_noon(asked)
    asked.use(BOUNDARY - 10 * MINUTE, 5)
    asked.world.clock.set(BOUNDARY - BEFORE)
    assert await asked.flusher.flush() == 1
    asked.months.grace = 5 * MINUTE
    await roll_over(asked)
    await asked.settle()
    assert await asked.billed() == {FIRST: 1005}


async def test_parts_of_a_daily_window_take_the_place_of_a_flush_cut_by_no_one(
    asked: Asked,
) -> None:
    """The provisional window and the first part have the same bounds: it is one row from then."""
    asked.use(MIDNIGHT - MINUTE, 1000)
    await asked.report(MIDNIGHT - DAY_LONG, MIDNIGHT)
    asked.use(MIDNIGHT + HOUR, 5)
    await asked.flush_until(BOUNDARY + 20 * SECOND)
    [provisional] = await asked.provisional()
    await roll_over(asked, 12 * HOUR)
    asked.use(MIDNIGHT + 2 * HOUR, 3, arrived=asked.world.clock.now())
    await asked.report(MIDNIGHT, MIDNIGHT + DAY_LONG)
    part, _ = await asked.windows("part")
    assert part["id"] == provisional["id"]
    assert part["usage_record_id"] == provisional["usage_record_id"]
    assert (part["value"], part["state"]) == (Decimal(8), "booked")
    assert await asked.months.carries() == [3]
    assert await asked.billed() == {FIRST: 1005, BOUNDARY: 3}


@pytest.mark.parametrize("reason", ["awaiting_query", "query_unanswered"])
async def test_a_window_that_tells_what_is_being_asked_for_ends_the_question(
    asked: Asked, reason: str
) -> None:
    await told_until_noon(asked)
    asked.use(BOUNDARY - MINUTE, 5)
    await asked.flush_until(BOUNDARY + 20 * SECOND)
    [provisional] = await asked.provisional()
    await roll_over(asked)
    await asked.world.run(
        "update usage_windows set state = 'pending', reason = :reason, retry_at = :at "
        "where source = 'flush'",
        reason=reason,
        at=BOUNDARY + HOUR,
    )
    requests = len(asked.side.requests)
    bounds = {"windowStart": NOON.isoformat(), "windowEnd": BOUNDARY.isoformat()}
    await asked.world.deliver({"value": "5"} | bounds)
    asked.world.clock.set(BOUNDARY + 2 * HOUR)
    await asked.settle()
    *_, told = await asked.windows("webhook")
    assert (told["id"], told["state"], told["reason"]) == (provisional["id"], "booked", None)
    assert len(asked.side.requests) == requests
    assert await asked.billed() == {FIRST: 1005}
    assert await asked.wanted() == 1005


async def test_a_new_group_does_not_make_booking_and_flushing_wait_in_a_circle(
    world: World,
) -> None:
    """Both take the series in one order, whichever of them are new."""
    known, new = SeriesKey("tokens", "customer-1", b"k"), SeriesKey("tokens", "customer-1", b"n")

    def window(key: SeriesKey, hours: int) -> SeriesWindow:
        return SeriesWindow(key, "{}", "SUM", MIDNIGHT, MIDNIGHT + hours * HOUR)

    found = flushes.Provisional(
        new, "{}", "SUM", MIDNIGHT, BOUNDARY, MIDNIGHT + HOUR, 1, Decimal(1)
    )
    async with transaction(world.engine) as connection:
        await lock_series(connection, [window(known, 1)])

    async def flushed() -> datetime | None:
        async with transaction(world.engine) as connection:
            return await flushes.lock_told(
                connection, flushes.Asked("tokens", "customer-1"), [found]
            )

    async with transaction(world.engine) as connection:
        await lock_series(connection, [window(known, 2)])
        flushing = asyncio.create_task(flushed())
        await waiting_for_locks(world, 1)
        await lock_series(connection, [window(new, 2)])
    assert await flushing == MIDNIGHT + 2 * HOUR


@pytest.mark.parametrize("error", [KeyError("x"), DatabaseUnavailable()])
async def test_one_subscription_that_fails_keeps_nobody_else_from_being_flushed(
    asked: Asked, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    await told_until_noon(asked)
    asked.use(BOUNDARY - MINUTE, 5)
    asked.world.stripe.held["sub_0"] = replace(
        asked.world.stripe.held["sub_1"], subscription="sub_0"
    )
    await asked.months.replica.read(["sub_0"])
    series_of = flushes.series_of

    async def fails(
        connection: AsyncConnection, subscription: str, ends: datetime
    ) -> list[flushes.Series]:
        if subscription == "sub_0":
            raise error
        return await series_of(connection, subscription, ends)

    monkeypatch.setattr(flushes, "series_of", fails)
    asked.world.clock.set(BOUNDARY - MINUTE + 30 * SECOND)
    assert await asked.flush() == 1
    rows = await asked.world.rows(
        "select flush_at from subscription_snapshots where subscription = 'sub_0'"
    )
    later = LEASE if isinstance(error, DatabaseUnavailable) else UNFORESEEN_RETRY
    assert [row["flush_at"] for row in rows] == [asked.world.clock.now() + later]
