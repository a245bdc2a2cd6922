"""A subscription that ended: the windows of usage that was flushed before are on its last bill."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from tests.ledger.asked import BOUNDARY, DAY_LONG, MIDNIGHT, MINUTE, Asked, asked_world
from tests.ledger.world import World
from tests.mapping.stripe_side import HOUR

ENDS = BOUNDARY - HOUR + 17 * MINUTE


@pytest.fixture
async def asked(world: World) -> AsyncIterator[Asked]:
    """sub_1 ends in mid-period, and what was used is told by the hour until an hour before."""
    async with asked_world(world) as made:
        held = made.world.stripe.held["sub_1"]
        made.world.stripe.held["sub_1"] = replace(held, cancel_at=ENDS)
        await made.months.replica.read(["sub_1"])
        made.use(MIDNIGHT - HOUR, 1000)
        await made.report(MIDNIGHT - DAY_LONG, MIDNIGHT)
        made.use(MIDNIGHT + HOUR, 300)
        made.use(ENDS - 10 * MINUTE, 40)
        await made.flush_until(ENDS)
        yield made


async def wanted(asked: Asked) -> list[int]:
    """What each record must hold, in the order of their making."""
    found = await asked.world.rows("select wanted_quantity from usage_records order by id")
    return [int(row["wanted_quantity"]) for row in found]


async def end(asked: Asked) -> None:
    """Stripe ends the subscription, and takes nothing for it any more."""
    held = asked.world.stripe.held["sub_1"]
    asked.world.stripe.held["sub_1"] = replace(held, status="canceled")
    asked.world.clock.set(ENDS + MINUTE)
    await asked.months.replica.read(["sub_1"])


async def test_a_day_that_was_flushed_is_not_shown_as_unbilled(asked: Asked) -> None:
    assert await wanted(asked) == [1000, 340]
    await end(asked)
    asked.world.clock.set(MIDNIGHT + DAY_LONG + HOUR)
    await asked.report(MIDNIGHT, MIDNIGHT + DAY_LONG)
    [first, last] = await asked.windows("part")
    assert (first["state"], int(first["value"])) == ("booked", 340)
    assert (last["window_start"], int(last["value"])) == (ENDS, 0)
    assert await wanted(asked) == [1000, 340]
    assert await asked.provisional() == []


async def test_only_what_it_tells_more_is_shown(asked: Asked) -> None:
    asked.use(ENDS - MINUTE, 5, arrived=ENDS + HOUR)
    await end(asked)
    asked.world.clock.set(MIDNIGHT + DAY_LONG + HOUR)
    await asked.report(MIDNIGHT, MIDNIGHT + DAY_LONG)
    assert await wanted(asked) == [1000, 345]


async def test_hours_that_end_within_it_are_booked_where_they_were_flushed(asked: Asked) -> None:
    await end(asked)
    await asked.report(MIDNIGHT, MIDNIGHT + DAY_LONG, "HOUR")
    assert await wanted(asked) == [1000, 340]
    assert {w["reason"] for w in await asked.windows("webhook") if w["state"] == "parked"} == set()


async def test_what_nobody_flushed_is_parked(asked: Asked) -> None:
    await end(asked)
    asked.use(ENDS + HOUR, 7)
    asked.world.clock.set(ENDS + 3 * HOUR)
    await asked.report(MIDNIGHT + 13 * HOUR, MIDNIGHT + 15 * HOUR, "HOUR")
    assert await asked.world.parked() == {"subscription_ended": 1}
