"""Usage of every kind moves: under `max` and `latest`, in buckets, in parts, provisional."""

from fractions import Fraction

import pytest

from tests.ledger.moves import MOVED, MOVED_BACK, UPGRADED, Call, Moving
from tests.ledger.world import Replica, World, at, row

BY_DAY = "meters: [{meter: tokens, price: price_1, record_per: day}]"


async def test_a_bucket_keeps_what_stays(moving: Moving, replica: Replica) -> None:
    await moving.apply(BY_DAY)
    await moving.tell(replica, 1, 2, 3, 4)
    assert await moving.billed() == {"si_1": 10}
    await moving.apply(UPGRADED)
    await moving.settle(replica)
    await moving.check([Fraction(n) for n in (1, 2, 3, 4)], {"si_1": [0, 1], "si_2": [2, 3]})


async def test_a_maximum_falls_back_to_what_is_left(moving: Moving, replica: Replica) -> None:
    moving.show(aggregate_usage="max")
    await moving.apply(BY_DAY)
    await moving.world.deliver(
        *(row(hour, value) for hour, value in enumerate((5, 3, 9))), aggregation="MAX"
    )
    await moving.settle(replica)
    assert await moving.billed() == {"si_1": 9}
    await moving.apply(UPGRADED)
    await moving.settle(replica)
    assert await moving.billed() == {"si_1": 5, "si_2": 9}


async def test_a_newest_value_that_stripe_never_had_leaves_no_zero(
    moving: Moving, replica: Replica
) -> None:
    """A zero at its old place would be the newest there, and bill nothing."""
    moving.show(aggregate_usage="last_during_period")
    await moving.world.deliver(row(1, 5), aggregation="LATEST")
    await moving.settle(replica)
    await moving.world.deliver(row(2, 0), row(3, 7), aggregation="LATEST")
    await replica.book()
    assert (await moving.apply(UPGRADED)).moves.obstructed == ()
    await moving.settle(replica)
    assert moving.calls == [Call("si_1", at(1), 5), Call("si_2", at(2), 0), Call("si_2", at(3), 7)]


@pytest.fixture
async def divided(moving: Moving, replica: Replica) -> Moving:
    """A window with two parts, which stand in its place."""
    await moving.tell(replica, 0, 4, 6)
    await moving.world.run(
        "update usage_windows set state = 'covered', reason = 'in_parts', usage_record_id = null, "
        "window_start = '2026-03-09 01:00Z', window_end = '2026-03-09 03:00Z', value = 10 "
        "where value = 0"
    )
    await moving.world.run(
        "update usage_windows set source = 'part', "
        "part_of = (select id from usage_windows where state = 'covered') where state = 'booked'"
    )
    return moving


async def test_parts_move_each_by_itself(divided: Moving, replica: Replica) -> None:
    (move,) = (await divided.apply(UPGRADED)).moves.moves
    assert (move.windows, move.amount) == (1, Fraction(6))
    await divided.settle(replica)
    assert await divided.billed() == {"si_1": 4, "si_2": 6}
    await divided.apply(MOVED)
    await divided.settle(replica)
    assert await divided.billed() == {"si_2": 10}
    assert await divided.world.states() == {"booked": 2, "covered": 1}


async def test_what_is_provisional_moves_to_its_own_second(
    moving: Moving, replica: Replica
) -> None:
    await moving.tell(replica, 5)
    await moving.world.run(
        "update usage_windows set source = 'flush', record_at = :second", second=at(0) - 60
    )
    await moving.apply(MOVED)
    await moving.settle(replica)
    assert (await moving.world.wanted("si_2")) == {at(0) - 60: 5}
    await moving.apply(MOVED_BACK)
    await moving.settle(replica)
    assert await moving.billed() == {"si_1": 5}


async def test_a_provisional_window_that_is_told_while_it_leaves(
    moving: Moving, replica: Replica
) -> None:
    """The delivery is billed at the new place, and what is left of the other one leaves, too."""
    await moving.tell(replica, 5)
    await moving.world.run(
        "update usage_windows set source = 'flush', record_at = :second, "
        "window_end = '2026-03-11 00:00Z'",
        second=at(0),
    )
    await moving.apply(MOVED)
    await moving.world.deliver(row(0, 4))
    await moving.settle(replica)
    assert await moving.billed() == {"si_2": 5}
    assert await moving.moving() == []


async def test_the_value_of_a_whole_period_stays(world: World, replica: Replica) -> None:
    moving = Moving(world)
    await moving.tell(replica, 5)
    await world.run("update usage_windows set source = 'period'")
    applied = await moving.apply(MOVED)
    assert applied.moves.moves == ()
    assert ["whole period" in stay.why for stay in applied.moves.stays] == [True]
    await moving.settle(replica)
    assert await moving.billed() == {"si_1": 5}
