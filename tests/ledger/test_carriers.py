"""Several carriers and bookers on one database, and what fails: carried once all the same."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import pytest
from sqlalchemy import event

from app.errors import DatabaseUnavailable
from app.ledger.carrying import Carried
from app.mapping.models import MeterMapping
from tests.ledger.months import APRIL, MARCH, MAY, Line, Months, months_of, used
from tests.ledger.world import World
from tests.mapping.stripe_side import HOUR

SECOND = timedelta(seconds=1)


@pytest.fixture
async def months(world: World) -> AsyncIterator[Months]:
    """An instance that carries late usage forward."""
    async with months_of(world) as made:
        yield made


async def test_two_carriers_at_once_carry_once(world: World) -> None:
    async with months_of(world) as months, world.replica() as other:
        await months.tell(*(used(MARCH, hour, 10) for hour in range(20)))
        await months.begin(APRIL)
        await months.close(MARCH)
        for value in (13, 11, 12):
            await world.deliver(*(used(MARCH, hour, value) for hour in range(20)))
            await months.replica.book()
            done = await asyncio.gather(
                *(r.carrier.carry() for r in (months.replica, other, months.replica, other))
            )
            assert sum(carried.records for carried in done) == 20
            await months.check()
        await months.settle()
        assert await months.months() == {MARCH: Line(200), APRIL: Line(40)}


async def test_booking_sending_and_carrying_at_once(world: World) -> None:
    """Corrections of two closed periods come while both replicas carry what came before."""
    async with months_of(world) as months, world.replica() as other:
        await months.tell(*(used(MARCH, hour, 10) for hour in range(5)))
        await months.begin(APRIL)
        await months.tell(*(used(APRIL, hour, 10) for hour in range(5)))
        await months.begin(MAY)
        for value in (14, 12, 30, 11, 25):
            await world.deliver(*(used(MARCH, hour, value) for hour in range(5)))
            await world.deliver(*(used(APRIL, hour, value + 1) for hour in range(5)))
            await world.deliver(used(MAY, value, 1))
            await asyncio.gather(
                months.replica.book(),
                other.book(),
                months.replica.carrier.carry(),
                other.carrier.carry(),
                months.send(),
            )
            await months.check()
        await months.settle()
        assert await months.months() == {
            MARCH: Line(50),
            APRIL: Line(50),
            MAY: Line(5 * 15 + 5 * 16 + 5),
        }


async def test_a_period_that_is_not_there_yet_is_waited_for(months: Months) -> None:
    """Ours is over, Stripe has not begun the next one: nothing is carried into the old one."""
    await months.tell(used(MARCH, 5, 10))
    await months.world.deliver(used(MARCH, 6, 5))
    await months.replica.book()
    await months.refuse_all()
    months.world.clock.set(APRIL + 20 * SECOND)
    carried = await months.replica.carrier.carry()
    assert carried == Carried(0, frozenset({"sub_1"}))
    assert await months.replica.carrier.carry() == Carried()  # not at once again
    await months.begin(APRIL, after=40 * SECOND)
    await months.settle()
    assert await months.months() == {MARCH: Line(10), APRIL: Line(5)}


@pytest.mark.parametrize(("begun", "billed"), [(True, {APRIL: Line(5)}), (False, {})])
async def test_after_a_while_without_a_look_the_period_is_read_and_carried_to_at_once(
    months: Months, begun: bool, billed: dict[datetime, Line]
) -> None:
    """Nobody worked for two days: nothing waits for another one, unless Stripe is late itself."""
    await months.tell(used(MARCH, 5, 10))
    await months.world.deliver(used(MARCH, 6, 5))
    await months.replica.book()
    await months.refuse_all()
    months.world.clock.set(APRIL + timedelta(days=2))
    if begun:
        months.shown(period_start=APRIL, period_end=MAY)
    carried = await months.replica.carrier.carry()
    assert carried == Carried(0, frozenset({"sub_1"}))
    await months.replica.read(carried.subscriptions)
    for _ in range(3):
        months.world.clock.advance(11 * SECOND)
        await months.replica.carrier.carry()
    await months.send()
    assert await months.months() == {MARCH: Line(10)} | billed


async def test_a_replica_whose_snapshot_is_old_carries_nothing_to_a_closed_period(
    months: Months,
) -> None:
    """The anchor was moved within March: the old snapshot's period looks open by the clock."""
    middle = MARCH + timedelta(days=8)
    await months.tell(used(MARCH, 5, 10))
    async with months.world.replica() as other:
        await other.snapshots.known(["sub_1"])
        await months.world.deliver(used(MARCH, 7, 5))
        await months.replica.book()
        await months.show(period_start=middle, period_end=middle + timedelta(days=31))
        await months.send()
        carried = await other.carrier.carry()
        assert carried == Carried(0, frozenset({"sub_1"}))
    await months.check()
    months.world.clock.advance(11 * SECOND)
    await months.settle()
    assert await months.months() == {MARCH: Line(10), middle: Line(5)}


async def test_a_period_that_cannot_be_carried_does_not_stop_the_others(
    months: Months, monkeypatch: pytest.MonkeyPatch
) -> None:
    await months.tell(used(MARCH, 5, 10))
    await months.begin(APRIL)
    await months.tell(used(APRIL, 5, 10))
    await months.begin(MAY)
    successors = months.replica.carrier._successors
    mapping = successors.mapping
    calls = 0

    async def first_fails(records: list[int]) -> MeterMapping | None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise ValueError("a defect")
        return await mapping(records)

    monkeypatch.setattr(successors, "mapping", first_fails)
    await months.tell(used(MARCH, 5, 12), used(APRIL, 5, 13))
    assert await months.months() == {MARCH: Line(10), APRIL: Line(10), MAY: Line(3)}
    months.world.clock.advance(HOUR)
    await months.settle()
    assert (await months.months())[MAY] == Line(5)


async def test_a_kill_after_any_statement_changes_nothing(
    months: Months, monkeypatch: pytest.MonkeyPatch
) -> None:
    await months.tell(used(MARCH, 5, 10), used(MARCH, 6, 10))
    await months.begin(APRIL)
    await months.tell(used(MARCH, 6, 12))
    await months.world.deliver(used(MARCH, 5, 17), used(MARCH, 6, 9), used(MARCH, 7, 1))
    await months.replica.book()
    left = 0

    def dies(*_: object) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError("killed")

    fetch = asyncpg.Connection.fetch

    async def fetch_and_die(driver: Any, *arguments: Any, **more: Any) -> Any:
        """What goes to the driver itself, past SQLAlchemy."""
        found = await fetch(driver, *arguments, **more)
        dies()
        return found

    engine = months.replica.engine.sync_engine
    died = 0
    event.listen(engine, "after_cursor_execute", dies)
    monkeypatch.setattr(asyncpg.Connection, "fetch", fetch_and_die)
    while died < 60:
        left = died
        before = await months.months()
        try:
            done = await months.replica.carrier.carry()
        except DatabaseUnavailable:
            died += 1
            assert await months.carries() == [2]
            assert await months.months() == before
            await months.check()
        else:
            break
    event.remove(engine, "after_cursor_execute", dies)
    monkeypatch.undo()
    assert (done.records, died > 5) == (3, True)
    await months.settle()
    assert await months.months() == {MARCH: Line(20), APRIL: Line(7)}
