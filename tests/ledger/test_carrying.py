"""Late usage is billed once: in its own period while Stripe takes it, else in the open one."""

from collections.abc import AsyncIterator
from datetime import datetime, timedelta

import pytest

from tests.ledger.months import APRIL, EPOCH, MARCH, Line, Months, months_of, used
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


# What is known of March, and where its late window is written.
KNOWN = [("booked", MARCH), ("snapshot", MARCH), ("nothing", EPOCH)]


@pytest.mark.parametrize(("known", "home"), KNOWN)
async def test_what_comes_after_its_period_is_carried_to_the_open_one(
    months: Months, known: str, home: datetime
) -> None:
    if known == "booked":
        await months.tell(used(MARCH, 5, 0))
    elif known == "snapshot":
        await months.replica.read(["sub_1"])
    await months.begin(APRIL)
    await months.tell(used(MARCH, 700, 5), used(MARCH, 701, 2), used(APRIL, 0, 1))
    await months.settle()
    assert await months.months() == {APRIL: Line(8)}
    assert sorted(await months.carries()) == [2, 5]
    [carry] = await months.world.rows("select * from usage_records where carried_quantity > 0")
    assert carry["timestamp"] == int(APRIL.timestamp()) + 1
    homes = await months.world.rows(
        "select p.period_start, p.closed_at, r.state from usage_records r "
        "join item_periods p on p.id = r.item_period_id where r.carried_quantity < 0"
    )
    assert {(row["period_start"], row["state"]) for row in homes} == {(home, "reported")}
    assert all(row["closed_at"] is not None for row in homes)
    assert await months.world.parked() == {}


@pytest.mark.parametrize(
    ("stripe_grants", "billed", "carries"),
    [
        (HOUR, {MARCH: Line(15), APRIL: Line(1)}, []),
        (0 * HOUR, {MARCH: Line(10), APRIL: Line(6)}, [5]),
    ],
)
async def test_in_the_grace_it_is_tried_first(
    months: Months, stripe_grants: timedelta, billed: dict[datetime, Line], carries: list[int]
) -> None:
    await months.tell(used(MARCH, 5, 10))
    await months.begin(APRIL, after=30 * SECOND)
    months.grace = stripe_grants
    await months.world.deliver(used(MARCH, 743, 5))
    await months.replica.book()
    [late] = await months.world.rows("select state from usage_records where wanted_quantity = 5")
    assert late["state"] == "due"
    await months.settle()
    await months.begin(APRIL)
    await months.tell(used(APRIL, 0, 1))
    assert (await months.months(), await months.carries()) == (billed, carries)


async def test_once_stripe_has_refused_a_period_nothing_more_is_tried_there(
    months: Months,
) -> None:
    await months.tell(used(MARCH, 5, 10))
    await months.begin(APRIL, after=30 * SECOND)
    await months.tell(used(MARCH, 743, 5))
    reads = months.world.stripe.reads["sub_1"]
    await months.world.deliver(used(MARCH, 742, 7))
    await months.replica.book()
    [late] = await months.world.rows("select state from usage_records where wanted_quantity = 7")
    assert late["state"] == "late"
    await months.settle()
    assert await months.months() == {MARCH: Line(10), APRIL: Line(12)}
    assert months.world.stripe.reads["sub_1"] == reads


# Values of a window of which Stripe holds 10, and what March, April and the customer are owed then.
CORRECTIONS = [
    ((12,), 2, 0),
    ((12, 10), 0, 0),
    ((12, 10, 12), 2, 0),
    ((12, 11), 1, 0),
    ((12, 7), 0, 3),
    ((12, 7, 13), 3, 0),
    ((7,), 0, 3),
    ((7, 10), 0, 0),
    ((7, 8), 0, 2),
    ((7, 12), 2, 0),
    ((7, 12, 7), 0, 3),
    ((0,), 0, 10),
    ((0, 10, 0), 0, 10),
]


async def test_a_correction_carries_the_difference_alone(months: Months) -> None:
    """All in one ledger, a window each; after every step the lines are what the table says."""
    await months.tell(*(used(MARCH, hour, 10) for hour in range(len(CORRECTIONS))))
    await months.begin(APRIL)
    await months.tell(used(APRIL, 0, 1))
    for hour, (values, carried, owed) in enumerate(CORRECTIONS):
        before = await months.months()
        for value in values:
            await months.tell(used(MARCH, hour, value))
        after = await months.months()
        moved = after[APRIL].billed - before[APRIL].billed
        lacking = before[MARCH].held - after[MARCH].held
        assert (moved, lacking) == (carried, owed), values
        # What one window has carried would be taken back by the next one that goes down.
        await months.tell(used(MARCH, hour, 10))
        assert await months.months() == {MARCH: Line(130), APRIL: Line(1)}, values


async def test_a_negative_value_takes_from_the_other_records_of_its_period(months: Months) -> None:
    await months.tell(used(MARCH, 5, 10), used(MARCH, 6, 10))
    await months.begin(APRIL)
    await months.tell(used(MARCH, 7, -4))
    assert await months.months() == {MARCH: Line(20, -4)}
    await months.tell(used(MARCH, 8, -30))  # Stripe bills nothing below zero
    assert await months.months() == {MARCH: Line(20, -20)}
    await months.tell(used(MARCH, 9, 16))
    assert await months.months() == {MARCH: Line(20, -20), APRIL: Line(2)}


async def test_what_is_owed_says_how_much_and_heals(months: Months) -> None:
    await months.tell(used(MARCH, 5, 10))
    await months.begin(APRIL)
    await months.tell(used(MARCH, 5, 7))
    assert await months.held() == {"credit_due": "3 units billed too much"}
    await months.tell(used(MARCH, 5, 9))
    assert await months.held() == {"credit_due": "1 unit billed too much"}
    await months.tell(used(MARCH, 5, 10))
    assert (await months.held(), await months.carries()) == ({}, [])


async def test_what_is_owed_is_set_off_when_it_is_released(months: Months) -> None:
    """Not by itself: somebody may have written a credit note by then."""
    await months.tell(used(MARCH, 5, 10))
    await months.begin(APRIL)
    await months.tell(used(MARCH, 5, 7))
    await months.release("credit_due")
    assert await months.months() == {MARCH: Line(10, -3)}
    await months.tell(used(MARCH, 6, 5))
    assert await months.months() == {MARCH: Line(10, -3), APRIL: Line(5)}
    await months.release("credit_due")
    assert await months.months() == {MARCH: Line(10), APRIL: Line(2)}
    assert await months.held() == {}


async def test_up_and_down_at_once_is_the_difference(months: Months) -> None:
    await months.tell(used(MARCH, 5, 10), used(MARCH, 6, 10))
    await months.begin(APRIL)
    await months.tell(used(MARCH, 5, 7), used(MARCH, 6, 15))
    assert await months.months() == {MARCH: Line(20), APRIL: Line(2)}


async def test_fractions_are_carried_when_the_rounded_total_moves(months: Months) -> None:
    await months.tell(used(MARCH, 5, "10.4"))
    await months.begin(APRIL)
    billed = []
    for hour, value in enumerate(["0.05", "0.05", "0.3", "0.7", "-0.1", "0.1"], start=6):
        await months.tell(used(MARCH, hour, value))
        lines = await months.months()
        billed.append(lines.get(APRIL, Line(0)).billed)
    # 10.45, 10.5, 10.8, 11.5, 11.4, 11.5 of which ten are March's
    assert billed == [0, 1, 1, 2, 1, 2]
    assert (await months.months())[MARCH] == Line(10)
    await months.tell(used(APRIL, 0, "0.5"))  # March's fractions are not April's
    assert (await months.months())[APRIL] == Line(3)


async def test_a_period_that_a_carry_made_is_rounded_by_the_mapping_of_its_first_window(
    months: Months,
) -> None:
    await months.tell(used(MARCH, 5, 1))
    await months.world.apply(MAPPED.format(members=", rounding: up"))
    await months.begin(APRIL)
    await months.tell(used(MARCH, 6, "1.2"))
    assert await months.months() == {MARCH: Line(1), APRIL: Line(1)}
    await months.tell(used(APRIL, 0, "1.2"))
    assert (await months.months())[APRIL] == Line(3)
    await months.world.apply(MAPPED.format(members=", rounding: down"))
    await months.tell(used(APRIL, 1, "1.2"))
    assert (await months.months())[APRIL] == Line(4)
