"""What a mapping would move and cannot come down at Stripe: refused, or owed, by force."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from app.errors import InvalidMapping, MovesBilledUsage
from app.mapping import remapping
from app.mapping.models import LatePolicy
from app.mapping.moving import Obstacle
from tests.ledger.moves import MOVED, UPGRADED, Moving
from tests.ledger.world import Replica, World, row

APRIL, MAY = datetime(2026, 4, 1, tzinfo=UTC), datetime(2026, 5, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("statement", "obstacle"),
    [
        (
            (
                "update item_periods set closed_at = period_start, "
                "closed_until = extract(epoch from period_end)::bigint"
            ),
            Obstacle.PERIOD_CLOSED,
        ),
        ("update item_periods set period_end = '2026-03-10 11:00Z'", Obstacle.PERIOD_CLOSED),
        ("update usage_records set increment = true", Obstacle.ONLY_INCREMENTS),
        ("update item_periods set combination = 'latest'", Obstacle.NEWEST_COUNTS),
        (
            "update usage_records set state = 'held', reason = 'item_gone', due_at = null",
            Obstacle.RECORD_HELD,
        ),
    ],
)
async def test_what_cannot_come_down_is_refused(
    moving: Moving, replica: Replica, statement: str, obstacle: Obstacle
) -> None:
    await moving.tell(replica, 5)
    await moving.world.run(statement)
    before = await moving.world.mappings.everything()
    with pytest.raises(MovesBilledUsage, match="moves 1 window with 5 units") as refused:
        await moving.apply(MOVED)
    [fault] = refused.value.faults
    assert "si_1 of sub_1" in fault.path
    assert await moving.world.mappings.everything() == before
    assert await moving.moving() == []
    shown = (await moving.preview(MOVED)).moves
    assert [move.obstacle for move in shown.obstructed] == [obstacle]
    assert (await moving.apply(MOVED, force=True)).moves == shown
    assert len(await moving.moving()) == 1


async def test_nothing_stands_in_the_way_of_what_stripe_never_had(
    moving: Moving, replica: Replica
) -> None:
    await moving.world.deliver(row(0, 5))
    await replica.book()
    await moving.world.run("update item_periods set closed_at = period_start")
    assert (await moving.apply(MOVED)).moves.obstructed == ()


async def test_too_much_at_once_is_refused(
    moving: Moving, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remapping, "MOST_WINDOWS", 2)
    await moving.tell(replica, 1, 2, 3)
    with pytest.raises(InvalidMapping, match="moves 3 windows"):
        await moving.apply(MOVED, force=True)
    await moving.apply(UPGRADED)


async def test_a_closed_period_by_force(world: World) -> None:
    """What was billed stays billed: it is owed to the customer, and billed at the new place."""
    world.rules = replace(world.rules, late_policy=LatePolicy.CARRY_FORWARD)
    moving = Moving(world)
    async with world.replica() as replica:
        await moving.tell(replica, 5, 2)
        world.clock.set(APRIL + timedelta(days=9))
        moving.show(period_start=APRIL, period_end=MAY)
        await replica.read(["sub_1", "sub_2"])
        with pytest.raises(MovesBilledUsage):
            await moving.apply(UPGRADED.replace("T02", "T01"))
        await world.run(
            "update item_periods set closed_at = period_end, "
            "closed_until = extract(epoch from period_end)::bigint"
        )
        await moving.apply(UPGRADED.replace("T02", "T01"), force=True)
        await moving.settle(replica)
    held = await world.rows(
        "select subscription_item, wanted_quantity, reported_quantity, reason, detail "
        "from usage_records where state = 'held'"
    )
    assert [(h["subscription_item"], h["reason"], h["detail"]) for h in held] == [
        ("si_1", "credit_due", "2 units billed too much")
    ]
    assert await moving.billed() == {"si_1": 7, "si_2": 2}
    assert await moving.moving() == []
    assert await world.states() == {"booked": 2}
