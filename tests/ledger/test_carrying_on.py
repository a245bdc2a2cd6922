"""Late usage where the policy, the item or the open period is another one by now."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from app.mapping.models import LatePolicy
from tests.ledger.months import APRIL, JUNE, MARCH, MAY, Line, Months, months_of, used
from tests.ledger.world import World
from tests.mapping.stripe_side import HOUR

SECOND = timedelta(seconds=1)
MAPPED = """
meters: [{{meter: tokens, price: price_1{members}}}]
subjects: [{{subject: customer-1, subscription: sub_1}}]
"""


@pytest.fixture
async def months(world: World) -> AsyncIterator[Months]:
    """An instance that carries late usage forward."""
    async with months_of(world) as made:
        yield made


POLICIES = [
    (LatePolicy.CARRY_FORWARD, ", late: hold", ", late: carry_forward"),
    (LatePolicy.HOLD, "", ", late: carry_forward"),
    (LatePolicy.CARRY_FORWARD, ", late: hold", ""),
]


@pytest.mark.parametrize(("instance", "mapped", "then"), POLICIES)
async def test_held_by_policy_until_the_policy_is_another(
    world: World, instance: LatePolicy, mapped: str, then: str
) -> None:
    await world.apply(MAPPED.format(members=mapped))
    async with months_of(world, policy=instance) as months:
        await months.tell(used(MARCH, 5, 10), used(MARCH, 6, 10))
        await months.begin(APRIL, after=30 * SECOND)
        await months.tell(used(MARCH, 7, 1))
        assert await months.held() == {"period_closed": "1 unit more than Stripe took"}
        await months.begin(APRIL)
        await months.tell(used(MARCH, 8, 100), used(MARCH, 5, 30), used(MARCH, 6, 8))
        assert await world.parked() == {"period_closed": 1}
        assert await months.months() == {MARCH: Line(20, 1 + 20 - 2)}
        await months.release("period_closed")
        assert await months.months() == {MARCH: Line(20, 1 + 20 - 2)}
        assert await world.parked() == {"period_closed": 1}
        await world.apply(MAPPED.format(members=then))
        await months.release("period_closed")
        assert await world.parked() == {}
        assert sum(await months.carries()) == sum(
            line.billed for start, line in (await months.months()).items() if start == APRIL
        )
        lines = await months.months()
        assert lines[APRIL].billed + lines[MARCH].held == 1 + 20 - 2 + 100


async def test_from_now_on_hold(months: Months) -> None:
    await months.tell(used(MARCH, 5, 10))
    await months.begin(APRIL)
    await months.tell(used(MARCH, 5, 12))
    await months.world.apply(MAPPED.format(members=", late: hold"))
    await months.tell(used(MARCH, 5, 15))
    assert await months.months() == {MARCH: Line(10, 3), APRIL: Line(2)}
    assert await months.held() == {"period_closed": "3 units more than Stripe took"}
    await months.tell(used(MARCH, 5, 12))
    assert (await months.months(), await months.held()) == ({MARCH: Line(10), APRIL: Line(2)}, {})


async def test_two_closed_periods_are_carried_to_one_record(months: Months) -> None:
    await months.tell(used(MARCH, 5, 10))
    await months.begin(APRIL)
    await months.tell(used(APRIL, 5, 20))
    await months.begin(MAY)
    await months.tell(used(MARCH, 5, 13), used(APRIL, 5, 25))
    assert await months.months() == {MARCH: Line(10), APRIL: Line(20), MAY: Line(8)}
    await months.tell(used(APRIL, 5, 18))  # 5 of its own come back, and 2 of those of March
    assert await months.months() == {MARCH: Line(10), APRIL: Line(20), MAY: Line(1)}
    await months.tell(used(MARCH, 5, 10))
    assert await months.months() == {MARCH: Line(10, -2), APRIL: Line(20)}
    assert await months.held() == {"credit_due": "2 units billed too much"}


async def test_a_carry_that_was_not_sent_in_its_period_is_carried_on(months: Months) -> None:
    await months.tell(used(MARCH, 5, 10))
    await months.begin(APRIL)
    await months.close(MARCH)
    await months.world.deliver(used(MARCH, 5, 12))
    await months.replica.book()
    await months.replica.carrier.carry()
    await months.check()
    for month in (MAY, JUNE):
        await months.begin(month)
        await months.send()  # refused: Stripe has closed the period of the carry record
        await months.replica.carrier.carry()
        await months.check()
    await months.settle()
    assert await months.months() == {MARCH: Line(10), JUNE: Line(2)}
    assert await months.carries() == [2, 2, 2]
    await months.tell(used(MARCH, 5, 11))
    assert await months.months() == {MARCH: Line(10), JUNE: Line(1)}


async def test_a_correction_after_the_carry_was_billed_is_owed(months: Months) -> None:
    await months.tell(used(MARCH, 5, 10))
    await months.begin(APRIL)
    await months.tell(used(MARCH, 5, 12))
    await months.begin(MAY)
    await months.tell(used(MARCH, 5, 0))
    assert await months.months() == {MARCH: Line(10, -12), APRIL: Line(2)}
    assert await months.held() == {"credit_due": "12 units billed too much"}
    await months.tell(used(MARCH, 5, 15))
    assert await months.months() == {MARCH: Line(10), APRIL: Line(2), MAY: Line(3)}


async def test_what_may_have_counted_is_held_and_an_answer_is_waited_for(months: Months) -> None:
    await months.tell(used(MARCH, 5, 10), used(MARCH, 6, 10))
    await months.world.run(
        "update usage_records set doubtful = true where timestamp = :at",
        at=int((MARCH + 6 * HOUR).timestamp()) - 1,
    )
    await months.begin(APRIL)
    await months.tell(used(MARCH, 5, 13), used(MARCH, 7, 1))
    assert await months.held() == {"outcome_in_doubt": None}
    assert await months.months() == {MARCH: Line(20, 3), APRIL: Line(1)}
    # A POST whose answer is outstanding: first that is asked for again.
    sent = int((MARCH + 7 * HOUR).timestamp()) - 1
    await months.world.run(
        "update usage_records set sent_key = 'k', sent_quantity = 11 where timestamp = :at", at=sent
    )
    await months.tell(used(MARCH, 6, 12))
    [waiting] = await months.world.rows("select * from usage_records where sent_key is not null")
    assert waiting["state"] == "due"
    assert await months.months() == {MARCH: Line(20, 3), APRIL: Line(1)}
    await months.world.run(  # it was executed
        "update usage_records set sent_key = null, sent_quantity = null, reported_quantity = 11, "
        "state = 'late', due_at = :now where id = :id",
        id=waiting["id"],
        now=months.world.clock.now(),
    )
    await months.settle()
    assert await months.months() == {MARCH: Line(21, 3), APRIL: Line(2)}


async def test_the_item_that_took_its_place_takes_what_is_late(months: Months) -> None:
    """Also what was carried to an item, and had not been sent when that went."""
    await months.tell(used(MARCH, 5, 10))
    await months.begin(APRIL)
    await months.close(MARCH)
    await months.world.deliver(used(MARCH, 5, 12))
    await months.replica.book()
    await months.replica.carrier.carry()
    await months.begin(MAY, name="si_2")
    await months.send()
    await months.settle()
    assert await months.lines() == {("si_1", MARCH): Line(10), ("si_2", MAY): Line(2)}
    await months.tell(used(MARCH, 5, 15), used(APRIL, 7, 1))
    assert await months.lines() == {("si_1", MARCH): Line(10), ("si_2", MAY): Line(6)}


async def test_what_was_carried_to_an_item_goes_on_when_stripe_calls_that_gone(
    months: Months,
) -> None:
    await months.tell(used(MARCH, 5, 10))
    await months.begin(APRIL)
    await months.close(MARCH)
    await months.world.deliver(used(MARCH, 5, 12), used(APRIL, 5, 1))
    await months.replica.book()
    await months.replica.carrier.carry()
    await months.show("si_2")
    for _ in range(3):
        for record in await months.world.rows(
            "select id from usage_records where state = 'due' and subscription_item = 'si_1'"
        ):
            await months.refuse(record["id"], "si_1", "item_gone")
            await months.check()
        await months.replica.book()
        await months.replica.carrier.carry()
    await months.settle()
    assert await months.lines() == {("si_1", MARCH): Line(10), ("si_2", APRIL): Line(3)}
    assert await months.held() == {}


async def test_what_stands_on_an_item_that_went_with_its_period_is_kept_there(
    months: Months,
) -> None:
    """Stripe calls the item gone, and not the period closed: the difference is carried, too."""
    await months.tell(used(MARCH, 5, 10), used(MARCH, 6, 10))
    await months.begin(APRIL, name="si_2")
    await months.world.deliver(used(MARCH, 5, 12), used(MARCH, 6, 13))
    await months.replica.book()
    [record, _] = await months.world.rows("select id from usage_records where state = 'due'")
    await months.refuse(record["id"], "si_1", "item_gone")
    await months.settle()
    assert await months.lines() == {("si_1", MARCH): Line(20), ("si_2", APRIL): Line(5)}


NOWHERE = {
    "gone": {"name": "si_2", "price_id": "price_2"},
    "max": {"aggregate_usage": "max"},
    "licensed": {"usage_type": "licensed"},
    "meter": {"billing_meter": "mtr_1"},
}


@pytest.mark.parametrize("members", NOWHERE.values(), ids=NOWHERE)
async def test_what_no_item_adds_up_is_held(months: Months, members: dict[str, Any]) -> None:
    await months.tell(used(MARCH, 5, 10))
    await months.begin(APRIL, **members)
    await months.tell(used(MARCH, 5, 12))
    assert await months.lines() == {("si_1", MARCH): Line(10, 2)}
    assert list(await months.held()) == ["period_closed"]
    await months.show()
    await months.release("period_closed")
    assert await months.lines() == {("si_1", MARCH): Line(10), ("si_1", APRIL): Line(2)}


async def test_of_a_subscription_that_has_ended_it_is_held(months: Months) -> None:
    await months.tell(used(MARCH, 5, 10))
    await months.begin(APRIL)
    held = months.world.stripe.held
    held["sub_1"] = replace(held["sub_1"], status="canceled")
    await months.replica.read(["sub_1"])
    await months.tell(used(MARCH, 5, 12))
    assert await months.months() == {MARCH: Line(10, 2)}
    assert list(await months.held()) == ["period_closed"]
