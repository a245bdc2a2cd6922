"""Late records that pile up: booking is not kept waiting for them, and they are seen."""

from datetime import timedelta

import pytest

from app.db import ProgramSchema
from app.health import UNSENT_TOO_LONG, Health
from app.ledger import carrying
from app.ledger.status import StatusRepository
from tests.ledger.world import Replica, World

LATE = """
    with period as (
        insert into item_periods (subscription, subscription_item, period_start, period_end,
            rounding, exact_numerator, exact_denominator, rounded_total, late_policy)
        values ('sub_1', :item, '2026-02-01', '2026-03-01', 'half_up', 2, 1, 2, 'hold')
        returning id)
    insert into usage_records (item_period_id, subscription, subscription_item, timestamp,
        wanted_quantity, svix_id, state, due_at, unsent_since)
    select id, 'sub_1', :item, 1, 2, 'msg_1', :state, :now, :since from period
"""


async def stuck(world: World, item: str, *, minutes: int, state: str = "late") -> None:
    """A record that could not be sent, or carried, for so many minutes."""
    now = world.clock.now()
    since = now - timedelta(minutes=minutes)
    await world.run(LATE, item=item, state=state, now=now, since=since)


async def test_a_round_of_carrying_is_bounded(
    world: World, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(carrying, "PERIODS_AT_ONCE", 2)
    for number in range(5):
        await stuck(world, f"si_{number}", minutes=1)
    rounds = [(await replica.carrier.carry()).records for _ in range(4)]
    assert rounds == [2, 2, 1, 0]


@pytest.mark.parametrize(("late", "due"), [(20, 10), (10, 20), (20, None), (None, 20)])
async def test_the_oldest_that_is_unsent_may_be_late(
    world: World, late: int | None, due: int | None
) -> None:
    if late is not None:
        await stuck(world, "si_late", minutes=late)
        await stuck(world, "si_later", minutes=late - 1)
    if due is not None:
        await stuck(world, "si_due", minutes=due, state="due")
    now = world.clock.now()
    oldest = now - timedelta(minutes=20)
    status = StatusRepository(world.engine)
    assert (await status.backlog()).oldest_unsent == oldest
    assert (await status.summary()).oldest_unsent == oldest
    checks, found = await Health(world.engine, "r", ProgramSchema.of_program()).check(now)
    assert found == oldest
    assert timedelta(minutes=20) > UNSENT_TOO_LONG
    assert [check.ok for check in checks if check.name == "oldest_unsent"] == [False]
