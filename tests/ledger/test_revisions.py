"""A window that comes again: newer revises, older is ignored, the same is nothing."""

from datetime import timedelta
from typing import Any

import pytest

from tests.ledger.world import Replica, World, at, row
from tests.mapping.stripe_side import HOUR, PERIOD_START, item, snapshot


async def record(world: World) -> dict[str, Any]:
    [found] = await world.rows("select * from usage_records")
    return found


async def test_a_newer_value_revises_the_record(world: World, replica: Replica) -> None:
    await world.deliver(row(0, 5))
    await replica.book()
    second = await world.deliver(row(0, 3))
    await replica.book()
    window = await world.window()
    assert (window["value"], window["revision"], window["svix_id"]) == (3, 2, second)
    assert await world.wanted() == {at(0): 3}
    found = await record(world)
    assert (found["revision"], found["svix_id"]) == (2, second)


async def test_an_older_value_that_arrives_late_is_ignored(world: World, replica: Replica) -> None:
    newer = await world.deliver(row(0, 5), sent=10)
    await replica.book()
    await world.deliver(row(0, 3), sent=9)
    await replica.book()
    window = await world.window()
    assert (window["value"], window["revision"], window["svix_id"]) == (5, 1, newer)
    assert await world.wanted() == {at(0): 5}
    assert (await record(world))["revision"] == 1
    assert await world.deliveries() == {"booked": 2}


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0), (2, 0, 1)])
async def test_the_order_of_arrival_decides_nothing(
    world: World, replica: Replica, order: tuple[int, ...], together: bool
) -> None:
    for sent in order:
        await world.deliver(row(0, 10 + sent), sent=sent)
        if not together:
            await replica.book()
    await replica.book()
    assert await world.wanted() == {at(0): 12}


@pytest.mark.parametrize("ids", [("msg_a", "msg_b"), ("msg_b", "msg_a")])
async def test_of_two_messages_of_one_time_the_id_decides(
    world: World, replica: Replica, ids: tuple[str, str]
) -> None:
    values = {"msg_a": 1, "msg_b": 2}
    for svix_id in ids:
        await world.deliver(row(0, values[svix_id]), sent=5, svix_id=svix_id)
        await replica.book()
    assert await world.wanted() == {at(0): 2}


@pytest.mark.parametrize("value", ["5", "5.0", "5.000", "0.5e1"])
async def test_the_same_value_again_is_nothing(world: World, replica: Replica, value: str) -> None:
    await world.deliver(row(0, 5))
    await replica.book()
    before = await record(world)
    world.clock.advance(timedelta(minutes=1))
    await world.deliver(row(0, value))
    rounds = await replica.book()
    assert [done.windows for done in rounds] == [0]
    assert await record(world) == before
    assert (await world.window())["revision"] == 1


async def test_the_same_value_again_is_newer_all_the_same(world: World, replica: Replica) -> None:
    """5 at 1 s, 5 at 3 s, then a late 4 of 2 s: the 5 of 3 s stands."""
    for value, sent in [(5, 1), (5, 3), (4, 2)]:
        await world.deliver(row(0, value), sent=sent)
        await replica.book()
    assert await world.wanted() == {at(0): 5}


async def test_offsets_are_the_same_window(world: World, replica: Replica) -> None:
    await world.deliver(row(0, 5))
    moved = {
        "windowStart": "2026-03-09T01:00:00+01:00",
        "windowEnd": "2026-03-08T20:00:00-05:00",
    }
    await world.deliver(row(0, 7, **moved))
    await replica.book()
    assert await world.states() == {"booked": 1}
    assert await world.wanted() == {at(0): 7}


async def test_a_group_by_in_another_order_is_the_same_window(
    world: World, replica: Replica
) -> None:
    await world.deliver(row(0, 5, groupBy={"a": "1", "b": "2"}))
    await world.deliver(row(0, 7, groupBy={"b": "2", "a": "1"}))
    await world.deliver(row(0, 1, groupBy={"a": "1", "b": "3"}))
    await replica.book()
    assert await world.wanted() == {at(0): 8}


async def test_a_negative_value_lowers_other_records_newest_first(
    world: World, replica: Replica
) -> None:
    await world.deliver(row(0, 5), row(1, 6), row(2, 7))
    await replica.book()
    await world.deliver(row(3, -9))
    await replica.book()
    assert await world.wanted() == {at(0): 5, at(1): 4, at(2): 0, at(3): 0}
    assert await world.total() == (9, 9)
    changed = await world.rows("select timestamp, revision from usage_records order by 1")
    assert [found["revision"] for found in changed] == [1, 2, 2, 0]


async def test_below_zero_nothing_is_wanted_and_the_debt_is_kept(
    world: World, replica: Replica
) -> None:
    await world.deliver(row(0, 5), row(1, -8))
    await replica.book()
    assert await world.total() == (0, 0)
    await world.deliver(row(2, 10))
    await replica.book()
    assert await world.total() == (7, 7)
    assert sum((await world.wanted()).values()) == 7


async def test_a_record_that_comes_back_to_what_stripe_holds_has_nothing_to_send(
    world: World, replica: Replica
) -> None:
    await world.deliver(row(0, 5))
    await replica.book()
    await world.run(
        "update usage_records set reported_quantity = 5, state = 'reported', due_at = null"
    )
    for value, state in [(6, "due"), (5, "reported"), (0, "due")]:
        await world.deliver(row(0, value))
        await replica.book()
        found = await record(world)
        assert (found["state"], found["wanted_quantity"]) == (state, value)
        assert (found["due_at"] is None) is (state == "reported")
        assert (found["unsent_since"] is None) is (state == "reported")


async def test_a_held_record_stays_held_while_it_changes(world: World, replica: Replica) -> None:
    await world.deliver(row(0, 5))
    await replica.book()
    await world.run(
        "update usage_records set state = 'held', reason = 'period_closed', due_at = null"
    )
    await world.deliver(row(0, 6))
    await replica.book()
    found = await record(world)
    assert (found["state"], found["reason"]) == ("held", "period_closed")
    assert (found["wanted_quantity"], found["due_at"]) == (6, None)
    await world.deliver(row(0, 0))
    await replica.book()
    found = await record(world)
    assert (found["state"], found["reason"]) == ("reported", None)


async def test_an_answer_that_is_outstanding_keeps_the_record_due(
    world: World, replica: Replica
) -> None:
    """5 was posted and its answer lost; back at 0, Stripe may hold 5 all the same."""
    await world.deliver(row(0, 5))
    await replica.book()
    await world.run("update usage_records set sent_key = 'k', sent_quantity = 5")
    await world.deliver(row(0, 0))
    await replica.book()
    found = await record(world)
    assert (found["state"], found["wanted_quantity"], found["sent_key"]) == ("due", 0, "k")


async def test_a_booked_window_goes_where_the_changed_mapping_says(
    world: World, replica: Replica
) -> None:
    world.stripe.show("sub_1", "sub_2")
    await world.deliver(row(0, 5))
    await replica.book()
    await world.apply("subjects: [{subject: customer-1, subscription: sub_2}]")
    await world.deliver(row(0, 6), row(1, 7))
    await replica.book()
    assert await world.wanted("si_1") == {at(0): 0}
    assert await world.wanted("si_2") == {at(0): 6, at(1): 7}


async def test_a_record_of_another_period_takes_its_window_with_it(
    world: World, replica: Replica
) -> None:
    """The billing anchor was reset: the same second counts in the period it was booked in."""
    await world.deliver(row(0, 5))
    await replica.book()
    world.stripe.held["sub_1"] = snapshot(item("si_1", period_start=PERIOD_START + HOUR))
    await replica.snapshots.refresh("sub_1")
    await world.deliver(row(0, 2, groupBy={"a": "1"}), row(1, 3))
    await replica.book()
    assert await world.wanted() == {at(0): 7, at(1): 3}
    totals = await world.rows("select rounded_total from item_periods order by period_start")
    assert [found["rounded_total"] for found in totals] == [7, 3]


SCALED = """
meters: [{{meter: tokens, price: price_1, scale: {scale}, rounding: {rounding}}}]
subjects: [{{subject: customer-1, subscription: sub_1}}]
"""


async def test_a_correction_is_scaled_as_the_window_was_when_it_was_booked(
    world: World, replica: Replica
) -> None:
    """A mapping that moved on to thousands must not turn a million on the old price into one."""
    await world.deliver(row(0, 1_000_000), row(1, 7))
    await replica.book()
    await world.apply(SCALED.format(scale="1/1000", rounding="half_up"))
    await world.deliver(row(0, 1_000_100), row(2, 5_000))
    await replica.book()
    assert await world.wanted() == {at(0): 1_000_100, at(1): 7, at(2): 5}


async def test_a_period_keeps_the_rounding_of_its_first_window(
    world: World, replica: Replica
) -> None:
    await world.apply(SCALED.format(scale="1/4", rounding="up"))
    await world.deliver(row(0, 1))
    await replica.book()
    await world.apply(SCALED.format(scale="1/4", rounding="down"))
    await world.deliver(row(1, 1))
    await replica.book()
    assert sum((await world.wanted()).values()) == 1


async def test_a_revision_that_cannot_be_added_up_is_parked_and_changes_nothing(
    world: World, replica: Replica
) -> None:
    await world.deliver(row(0, 9000))
    await replica.book()
    await world.deliver(row(0, 7000), aggregation="AVG")
    await replica.book()
    assert await world.parked() == {"aggregation_mismatch": 1}
    assert await world.wanted() == {at(0): 9000}
    await world.deliver(row(0, 8000))
    await replica.book()
    assert await world.parked() == {}
    assert await world.wanted() == {at(0): 8000}
