"""A correction that takes much away waits for an operator; what was booked stays until then."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from app.ledger.approval import Part, awaits_approval
from app.ledger.booker import Booker
from app.ledger.status import StatusRepository
from app.ledger.windows import PendingWindow
from app.mapping.releases import ask
from app.mapping.resolution import WindowFacts, WindowSource
from tests.ledger.asked import (
    BOUNDARY,
    DAY_LONG,
    LAST,
    MIDNIGHT,
    SECOND,
    Asked,
    asked_world,
)
from tests.ledger.world import DAY, LINGER, Replica, World, at, row
from tests.mapping.stripe_side import HOUR

ABOVE = Decimal(10)


def window(value: str, booked: str = "100", **members: Any) -> PendingWindow:
    """Revision 2 of a window that stands on a record with so many units."""
    whole = PendingWindow(
        id=1,
        facts=WindowFacts("tokens", "customer-1", "SUM", DAY, DAY + HOUR),
        group_key=b"",
        value=Decimal(value),
        revision=2,
        svix_id="msg",
        message_at=DAY,
        usage_record_id=7,
        amount=Fraction(booked),
        scale=Fraction(1),
    )
    return whole._replace(**members)


@pytest.mark.parametrize(
    ("revised", "above", "awaits"),
    [
        (window("89.999"), ABOVE, True),
        (window("90"), ABOVE, False),
        (window("200"), ABOVE, False),
        (window("89"), None, False),
        (window("99.999"), Decimal(0), True),
        (window("100"), Decimal(0), False),
        (window("-1", "5"), Decimal(5), True),
        (window("-20", "-5"), ABOVE, True),
        # Units, not values: by the scale it stands at.
        (window("50", scale=Fraction(2)), ABOVE, False),
        (window("89", scale=Fraction(1, 2)), ABOVE, True),
        (window("299", scale=Fraction(1, 3)), Decimal("0.3"), True),
        (window("299", scale=Fraction(1, 3)), Decimal("0.4"), False),
        # What is not booked has nothing to lose.
        (window("0", "0", usage_record_id=None, scale=None), ABOVE, False),
        (window("0", approved_revision=2), ABOVE, False),
        (window("0", approved_revision=1), ABOVE, True),
    ],
)
def test_what_takes_away_more_waits(
    revised: PendingWindow, above: Decimal | None, awaits: bool
) -> None:
    parked = awaits_approval(revised, above=above)
    assert (parked is not None) is awaits
    if parked is not None:
        assert (parked.state, parked.reason, parked.retry_at) == ("parked", "needs_approval", None)
        assert (parked.usage_record_id, parked.amount, parked.scale) == (
            revised.usage_record_id,
            revised.amount,
            revised.scale,
        )


@pytest.mark.parametrize(
    ("revised", "detail"),
    [
        (window("3.50"), "from 100 to 3.5 units: 96.5 less, and more than 10 need approval"),
        (
            window("3E+1", "100", scale=Fraction(1, 3)),
            "from 100 to 10 units: 90 less, and more than 10 need approval",
        ),
        (
            window("10", "100", scale=Fraction(1, 3)),
            "from 100 to 10/3 units: 290/3 less, and more than 10 need approval",
        ),
    ],
)
def test_the_detail_tells_from_what_to_what(revised: PendingWindow, detail: str) -> None:
    parked = awaits_approval(revised, above=ABOVE)
    assert parked is not None
    assert parked.detail == f"{detail}; what was booked before stays"


@pytest.fixture
def careful(world: World, replica: Replica) -> Replica:
    """A replica that asks before it takes away more than ten units."""
    booker = Booker(
        replica.engine,
        world.clock,
        replica.mappings,
        replica.snapshots,
        linger=LINGER,
        rules=world.rules,
        approve_reductions_above=ABOVE,
    )
    return replace(replica, booker=booker)


@pytest.fixture
def status(world: World) -> StatusRepository:
    return StatusRepository(world.engine)


async def tell(world: World, replica: Replica, *values: int) -> None:
    """Deliveries of one window, each booked."""
    for value in values:
        await world.deliver(row(0, value))
        await replica.book()


async def test_what_was_booked_stays_while_the_correction_waits(
    world: World, careful: Replica
) -> None:
    await tell(world, careful, 100)
    before = await world.window()
    await tell(world, careful, 3)
    found = await world.window()
    assert (found["state"], found["reason"], found["value"]) == ("parked", "needs_approval", 3)
    for column in ("usage_record_id", "amount_numerator", "amount_denominator", "scale_numerator"):
        assert found[column] == before[column]
    assert await world.wanted() == {at(0): 100}
    assert await world.total() == (100, 100)


async def test_within_the_limit_nobody_is_asked(world: World, careful: Replica) -> None:
    await tell(world, careful, 100, 90, 80)
    assert await world.wanted() == {at(0): 80}


async def test_without_the_setting_nobody_is_asked(world: World, replica: Replica) -> None:
    await tell(world, replica, 1000, 0)
    assert await world.wanted() == {at(0): 0}


@pytest.mark.parametrize("by_reason", [True, False])
async def test_the_release_approves(
    world: World, careful: Replica, status: StatusRepository, by_reason: bool
) -> None:
    await tell(world, careful, 100, 3)
    found = await world.window()
    if by_reason:
        released = await status.release_windows(reason="needs_approval", ids=[])
    else:
        released = await status.release_windows(reason=None, ids=[found["id"]])
    assert released == 1
    await careful.book()
    found = await world.window()
    assert (found["state"], found["reason"], found["approved_revision"]) == ("booked", None, 2)
    assert await world.wanted() == {at(0): 3}


async def test_a_changed_mapping_approves_nothing(world: World, careful: Replica) -> None:
    await tell(world, careful, 100, 3)
    async with world.engine.begin() as connection:
        await ask(connection, "meter", ["tokens"])
    await careful.book()
    assert await world.parked() == {"needs_approval": 1}
    assert (await world.window())["approved_revision"] is None
    assert await world.wanted() == {at(0): 100}


async def test_the_release_of_another_window_approves_nothing(
    world: World, careful: Replica, status: StatusRepository
) -> None:
    await tell(world, careful, 100, 3)
    await status.release_windows(reason="period_closed", ids=[0])
    await careful.book()
    assert await world.parked() == {"needs_approval": 1}


async def test_a_newer_correction_needs_an_approval_of_its_own(
    world: World, careful: Replica, status: StatusRepository
) -> None:
    await tell(world, careful, 100, 50)
    await status.release_windows(reason="needs_approval", ids=[])
    await world.deliver(row(0, 30))  # it comes before the approved one is booked
    await careful.book()
    assert await world.parked() == {"needs_approval": 1}
    assert await world.wanted() == {at(0): 100}
    await status.release_windows(reason="needs_approval", ids=[])
    await careful.book()
    assert await world.wanted() == {at(0): 30}
    await tell(world, careful, 5)
    assert await world.parked() == {"needs_approval": 1}
    assert await world.wanted() == {at(0): 30}


@pytest.mark.parametrize("value", [100, 95, 120])
async def test_back_up_needs_none(world: World, careful: Replica, value: int) -> None:
    await tell(world, careful, 100, 3, value)
    found = await world.window()
    assert (found["state"], found["reason"], found["detail"]) == ("booked", None, None)
    assert await world.wanted() == {at(0): value}


async def test_the_same_value_again_does_not_ask_twice(world: World, careful: Replica) -> None:
    await tell(world, careful, 100, 3)
    before = await world.window()
    await tell(world, careful, 3)
    found = await world.window()
    assert (found["state"], found["revision"], found["detail"]) == (
        "parked",
        before["revision"],
        before["detail"],
    )


async def test_what_is_not_on_a_record_yet_is_booked_as_it_is_told(
    unmapped: World, replica: Replica
) -> None:
    booker = Booker(
        replica.engine,
        unmapped.clock,
        replica.mappings,
        replica.snapshots,
        linger=LINGER,
        rules=unmapped.rules,
        approve_reductions_above=Decimal(0),
    )
    await tell(unmapped, replace(replica, booker=booker), 100, 3)
    assert await unmapped.parked() == {"no_subject_mapping": 1}


def pieces(*values: object, scale: Fraction | None = Fraction(1)) -> list[Part]:
    return [Part(Decimal(str(value)), scale) for value in values]


@pytest.mark.parametrize(
    ("aggregation", "value", "parts", "awaits"),
    [
        ("SUM", "90", pieces(60, 40), False),
        ("SUM", "89", pieces(60, 40), True),
        ("SUM", "200", pieces(60, 40), False),
        ("MAX", "50", pieces(60, 40), False),
        ("MAX", "49", pieces(60, 40), True),
        ("LATEST", "30", pieces(60, 40), False),
        ("LATEST", "29", pieces(60, 40), True),
        ("SUM", "79", pieces(60, 40, scale=Fraction(1, 2)), True),
        ("SUM", "80", pieces(60, 40, scale=Fraction(1, 2)), False),
        # One of them waits yet: by what is known of it.
        ("SUM", "89", [*pieces(60, scale=None), *pieces(40)], True),
        ("SUM", "0", pieces(60, 40, scale=None), False),
    ],
)
def test_of_a_divided_window_the_whole_is_judged(
    aggregation: str, value: str, parts: list[Part], awaits: bool
) -> None:
    revised = window(value, "0", usage_record_id=None, scale=None)
    revised = revised._replace(facts=replace(revised.facts, aggregation=aggregation))
    parked = awaits_approval(revised, above=ABOVE, parts=parts)
    assert (parked is not None) is awaits
    approved = revised._replace(approved_revision=2)
    assert awaits_approval(approved, above=ABOVE, parts=parts) is None


def test_a_part_is_not_judged_beside_its_window() -> None:
    part = window("0")
    part = part._replace(facts=replace(part.facts, source=WindowSource.PART))
    assert awaits_approval(part, above=ABOVE) is None


def day(value: int) -> dict[str, Any]:
    """An entry of `usage`: the day of the boundary."""
    return {
        "value": str(value),
        "windowStart": MIDNIGHT.isoformat(),
        "windowEnd": (MIDNIGHT + DAY_LONG).isoformat(),
    }


@asynccontextmanager
async def careful_days(world: World) -> AsyncIterator[Asked]:
    """A day over the boundary is billed, 70 and 50, where more than ten units need approval."""
    async with asked_world(world) as asked:
        replica = asked.months.replica
        booker = Booker(
            replica.engine,
            world.clock,
            replica.mappings,
            replica.snapshots,
            linger=LINGER,
            rules=world.rules,
            approve_reductions_above=ABOVE,
        )
        asked.months.replica = replace(replica, booker=booker)
        asked.use(BOUNDARY - SECOND, 70)
        asked.use(BOUNDARY, 50)
        world.clock.set(MIDNIGHT + DAY_LONG + HOUR)
        await asked.begin(BOUNDARY, LAST)
        await world.deliver(day(120))
        await asked.settle()
        assert await asked.wanted() == 120
        yield asked


async def test_a_divided_window_that_falls_waits_whole(
    world: World, status: StatusRepository
) -> None:
    async with careful_days(world) as asked:
        await world.deliver(day(30))
        await asked.settle()
        assert await world.parked() == {"needs_approval": 1}
        assert [w["state"] for w in await asked.windows("part")] == ["booked", "booked"]
        assert await asked.wanted() == 120
        assert await asked.billed() == {BOUNDARY: 120}
        await status.release_windows(reason="needs_approval", ids=[])
        await asked.settle()
        assert await world.parked() == {}
        assert sum(w["value"] for w in await asked.windows("part")) == 30
        assert await asked.wanted() == 30


async def test_units_that_go_from_one_part_to_the_other_need_no_approval(world: World) -> None:
    async with careful_days(world) as asked:
        asked.use(BOUNDARY - SECOND, 40, arrived=world.clock.now())
        asked.use(BOUNDARY, -40, arrived=world.clock.now())
        await world.deliver(day(121))
        await asked.settle()
        assert [(w["value"], w["state"]) for w in await asked.windows("part")] == [
            (110, "booked"),
            (11, "booked"),
        ]
        assert await world.parked() == {}
        assert await asked.wanted() == 121
