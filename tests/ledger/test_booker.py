"""Booking on the real database: deliveries become windows, windows become records."""

from datetime import timedelta
from decimal import Decimal
from fractions import Fraction

import pytest

from tests.ledger.world import DAY, LINGER, MAX_AGE, Replica, World, at, row
from tests.mapping.stripe_side import HOUR, NOW, PERIOD_END, PERIOD_START


async def test_a_delivery_becomes_windows_and_these_become_records(
    world: World, replica: Replica
) -> None:
    svix_id = await world.deliver(row(0, 5), row(1, "7"))
    await replica.book()
    assert await world.deliveries() == {"booked": 1}
    [record, _] = await world.rows("select * from usage_records order by timestamp")
    assert record["subscription"] == "sub_1"
    assert record["subscription_item"] == "si_1"
    assert record["timestamp"] == at(0)
    assert (record["wanted_quantity"], record["reported_quantity"]) == (5, 0)
    assert (record["state"], record["revision"], record["svix_id"]) == ("due", 1, svix_id)
    assert record["due_at"] == NOW + LINGER
    assert await world.wanted() == {at(0): 5, at(1): 7}
    [window, _] = await world.rows("select * from usage_windows order by window_start")
    assert (window["state"], window["usage_record_id"]) == ("booked", record["id"])
    assert (window["window_start"], window["window_end"]) == (DAY, DAY + HOUR)
    assert (window["value"], window["revision"], window["booked_at"]) == (5, 1, NOW)
    [period] = await world.rows("select * from item_periods")
    assert (period["period_start"], period["period_end"]) == (PERIOD_START, PERIOD_END)
    [lane] = await world.rows("select * from subscription_lanes")
    assert (lane["subscription"], lane["due_at"]) == ("sub_1", NOW + LINGER)


async def test_groups_and_subjects_add_up_on_one_record(world: World, replica: Replica) -> None:
    await world.apply("subjects: [{subject: team-2, subscription: sub_1}]")
    await world.deliver(
        row(0, 500, groupBy={"model": "gpt-4"}),
        row(0, 10_000, groupBy={"model": "gpt-3-turbo"}),
        row(0, 3, groupBy={"model": None}),
        row(0, 4),
    )
    await world.deliver(row(0, 20), subject="team-2")
    await replica.book()
    assert await world.wanted() == {at(0): 10_527}


async def test_meters_of_one_price_add_up_and_others_have_their_own_item(
    world: World, replica: Replica
) -> None:
    await world.apply("meters: [{meter: requests, price: price_1, scale: 100}]")
    await world.deliver(row(0, 5))
    await world.deliver(row(0, 2), meter="requests", aggregation="COUNT")
    await replica.book()
    assert await world.wanted() == {at(0): 205}


async def test_a_value_of_float_noise_is_kept_digit_by_digit(
    world: World, replica: Replica
) -> None:
    await world.apply("meters: [{meter: tokens, price: price_1, scale: 1/3}]")
    await world.deliver(row(0, "0.30000000000000004"))
    await replica.book()
    window = await world.window()
    assert window["value"] == Decimal("0.30000000000000004")
    booked = Fraction(int(window["amount_numerator"]), int(window["amount_denominator"]))
    assert booked == Fraction("0.30000000000000004") / 3
    [period] = await world.rows("select * from item_periods")
    assert Fraction(int(period["exact_numerator"]), int(period["exact_denominator"])) == booked


@pytest.mark.parametrize("value", ["999999999999999999999999999999", "1e29", "1e-400", "-0", "0"])
async def test_the_largest_and_smallest_values_go_through(
    world: World, replica: Replica, value: str
) -> None:
    await world.deliver(row(0, value))
    await replica.book()
    assert await world.states() == {"booked": 1}
    assert await world.wanted() == {at(0): int(Decimal(value))}
    assert (await world.window())["value"] == Decimal(value)


async def test_an_empty_report_is_booked_as_nothing(world: World, replica: Replica) -> None:
    await world.deliver()
    [done] = await replica.book()
    assert (done.deliveries, done.windows) == (1, 0)
    assert await world.deliveries() == {"booked": 1}
    assert await world.states() == {}


async def test_another_known_message_is_booked_as_nothing(world: World, replica: Replica) -> None:
    await world.deliver(body=b'{"type": "entitlements.reset"}')
    await replica.book()
    assert await world.deliveries() == {"booked": 1}


async def test_a_window_of_nothing_makes_a_record_with_nothing_to_send(
    world: World, replica: Replica
) -> None:
    await world.deliver(row(0, 0))
    await replica.book()
    [record] = await world.rows("select state, wanted_quantity, due_at from usage_records")
    assert record == {"state": "reported", "wanted_quantity": 0, "due_at": None}


async def test_a_thousand_windows_of_one_customer_are_one_read(
    world: World, replica: Replica
) -> None:
    for number in range(100):
        await world.deliver(*(row(0, 1, groupBy={"n": f"{number}.{n}"}) for n in range(10)))
    await replica.book()
    assert world.stripe.reads == {"sub_1": 1}
    assert await world.wanted() == {at(0): 1000}
    await world.deliver(row(1, 1))
    await replica.book()
    assert world.stripe.reads == {"sub_1": 1}


async def test_a_snapshot_serves_until_it_is_too_old(world: World, replica: Replica) -> None:
    await world.deliver(row(0, 1))
    await replica.book()
    world.clock.advance(MAX_AGE)
    await world.deliver(row(1, 1))
    await replica.book()
    assert world.stripe.reads == {"sub_1": 1}
    world.clock.advance(timedelta(seconds=1))
    await world.deliver(row(2, 1))
    await replica.book()
    assert world.stripe.reads == {"sub_1": 2}


async def test_a_new_process_takes_the_snapshot_from_the_database(
    world: World, replica: Replica
) -> None:
    await world.deliver(row(0, 1))
    await replica.book()
    async with world.replica() as fresh:
        await world.deliver(row(1, 1))
        await fresh.book()
    assert world.stripe.reads == {"sub_1": 1}
    assert await world.states() == {"booked": 2}


async def test_a_record_of_the_future_is_not_sent_before_its_second(
    world: World, replica: Replica
) -> None:
    """A window may be reported before it ends, by clocks that differ or syncs that run early."""
    end = DAY + 40 * HOUR
    assert end > NOW
    await world.deliver(row(39, 5))
    await replica.book()
    [record] = await world.rows("select due_at, unsent_since from usage_records")
    assert record["due_at"] == end - timedelta(seconds=1) + timedelta(seconds=2)
    assert record["unsent_since"] == record["due_at"]


async def test_a_burst_of_changes_waits_no_longer_than_ten_lingers(
    world: World, replica: Replica
) -> None:
    due = []
    for value in range(1, 30):
        await world.deliver(row(0, value))
        await replica.book()
        [record] = await world.rows("select due_at from usage_records")
        due.append(record["due_at"] - NOW)
        world.clock.advance(LINGER / 2)
    assert due[:3] == [LINGER, 1.5 * LINGER, 2 * LINGER]
    assert max(due) == 10 * LINGER
