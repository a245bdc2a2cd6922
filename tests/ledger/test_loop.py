"""The booking loop: awake when there is work, and never stopped by what goes away for a while."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from app.errors import DatabaseUnavailable
from app.ledger import loop as module
from app.ledger.loop import READ_RETRY, BookingLoop
from app.ledger.rounds import Round
from app.stripe_client import ProblemKind, StripeError
from tests.dispatch.answers import answered
from tests.ledger.world import Replica, World, at, row
from tests.mapping.stripe_side import item, snapshot


class Working:
    """A loop at work, and what it told."""

    def __init__(self, world: World, replica: Replica) -> None:
        self.booked = 0
        self.failed: list[StripeError] = []
        self.loop = BookingLoop(
            replica.engine,
            world.clock,
            replica.booker,
            replica.carrier,
            replica.snapshots,
            on_booked=self._on_booked,
            on_read_failed=self._on_read_failed,
        )

    def _on_booked(self) -> None:
        self.booked += 1

    async def _on_read_failed(self, error: StripeError) -> None:
        self.failed.append(error)


@asynccontextmanager
async def working(world: World, replica: Replica) -> AsyncIterator[Working]:
    """A loop that runs until the block ends."""
    at_work = Working(world, replica)
    running = asyncio.create_task(at_work.loop.run())
    try:
        yield at_work
    finally:
        at_work.loop.stop()
        async with asyncio.timeout(10):
            await running


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IDLE_POLL", 0.02)
    monkeypatch.setattr(module, "HOUSEKEEPING", 0.02)
    monkeypatch.setattr(module, "DATABASE_PAUSE", 0.02)


async def eventually(world: World, states: dict[str, int]) -> None:
    async with asyncio.timeout(15):
        while await world.states() != states:
            await asyncio.sleep(0.01)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(15):
        while not condition():
            await asyncio.sleep(0.01)


async def test_what_arrives_is_booked_without_a_read_each_and_the_dispatcher_is_told(
    world: World, replica: Replica
) -> None:
    async with working(world, replica) as at_work:
        for number in range(20):
            await world.deliver(row(0, 1, groupBy={"n": str(number)}))
        await eventually(world, {"booked": 20})
        await until(lambda: at_work.booked > 0)
    # What arrives between the end of the first read and its being saved may ask for another.
    assert world.stripe.reads in ({"sub_1": 1}, {"sub_1": 2})
    assert await world.wanted() == {at(0): 20}


async def test_woken_it_does_not_wait_for_its_poll(
    world: World, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "IDLE_POLL", 3600)
    await replica.read(["sub_1"])
    async with working(world, replica) as at_work:
        await asyncio.sleep(0)
        await world.deliver(row(0, 1))
        at_work.loop.wake()
        await eventually(world, {"booked": 1})


async def test_a_slow_read_delays_only_its_own_windows(world: World, replica: Replica) -> None:
    await world.apply("subjects: [{subject: customer-2, subscription: sub_2}]")
    world.stripe.show("sub_1", "sub_2")
    await replica.read(["sub_2"])
    world.stripe.gate.clear()
    async with working(world, replica):
        await world.deliver(row(0, 1))
        await world.deliver(row(0, 2), subject="customer-2")
        await eventually(world, {"booked": 1, "pending": 1})
        assert await world.wanted("si_2") == {at(0): 2}
        world.stripe.gate.set()
        await eventually(world, {"booked": 2})
    assert world.stripe.reads == {"sub_1": 1, "sub_2": 1}


async def test_a_read_that_fails_is_told_and_tried_again_later(
    world: World, replica: Replica
) -> None:
    world.stripe.failure = answered(ProblemKind.SERVER_ERROR)
    async with working(world, replica) as at_work:
        await world.deliver(row(0, 1))
        await until(lambda: at_work.failed == [world.stripe.failure])
        async with asyncio.timeout(15):
            while (await world.window())["retry_at"] != world.clock.now() + READ_RETRY:
                await asyncio.sleep(0.01)
        world.stripe.failure = None
        world.clock.advance(READ_RETRY)
        await eventually(world, {"booked": 1})
    assert world.stripe.reads == {"sub_1": 2}


async def test_a_read_that_raises_what_nobody_foresaw_is_not_repeated_at_once(
    world: World, replica: Replica
) -> None:
    world.stripe.failure = ZeroDivisionError()
    async with working(world, replica) as at_work:
        await world.deliver(row(0, 1))
        async with asyncio.timeout(15):
            while (
                await world.rows(
                    "select 1 from usage_windows where retry_at > :at",
                    at=world.clock.now() + timedelta(minutes=10),
                )
            ) == []:
                await asyncio.sleep(0.01)
        assert at_work.failed == []
        world.clock.advance(timedelta(minutes=10))
        at_work.loop.wake()
        await world.deliver(row(0, 1), subject="nobody")
        await eventually(world, {"pending": 1, "parked": 1})
    assert world.stripe.reads == {"sub_1": 1}


async def test_parked_windows_are_woken_when_their_time_has_come(
    world: World, replica: Replica
) -> None:
    world.stripe.held["sub_1"] = snapshot(item("si_1", usage_type="licensed"))
    async with working(world, replica):
        await world.deliver(row(0, 1))
        await eventually(world, {"parked": 1})
        world.stripe.show("sub_1")
        world.clock.advance(timedelta(hours=6))
        await eventually(world, {"booked": 1})


async def test_a_database_that_goes_away_is_awaited(
    world: World, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    book, away = replica.booker.book, iter([True] * 3)

    async def sometimes() -> Round:
        if next(away, False):
            raise DatabaseUnavailable
        return await book()

    monkeypatch.setattr(replica.booker, "book", sometimes)
    async with working(world, replica):
        await world.deliver(row(0, 1))
        await eventually(world, {"booked": 1})


async def test_stopping_ends_it_in_the_middle_of_a_read(world: World, replica: Replica) -> None:
    world.stripe.gate.clear()
    async with working(world, replica):
        await world.deliver(row(0, 1))
        await until(lambda: world.stripe.reads["sub_1"] == 1)
    assert await world.states() == {"pending": 1}
