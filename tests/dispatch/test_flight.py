"""How many calls may be in flight: a bound that holds, is halved, and grows back."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from app.dispatch.flight import Flight


class Seconds:
    """A monotonic clock that tests move."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


async def entered(flight: Flight, number: int) -> list[asyncio.Task[None]]:
    tasks = [asyncio.create_task(flight.enter()) for _ in range(number)]
    await asyncio.sleep(0)
    return tasks


def inside(tasks: list[asyncio.Task[None]]) -> list[int]:
    return [n for n, task in enumerate(tasks) if task.done() and not task.cancelled()]


async def test_places_are_given_first_come_first_served() -> None:
    flight = Flight(2)
    tasks = await entered(flight, 5)
    assert inside(tasks) == [0, 1]
    flight.leave()
    await asyncio.sleep(0)
    assert inside(tasks) == [0, 1, 2]
    flight.leave()
    flight.leave()
    await asyncio.sleep(0)
    assert inside(tasks) == [0, 1, 2, 3, 4]


async def test_one_that_is_cancelled_takes_no_place() -> None:
    flight = Flight(1)
    await flight.enter()
    waiting, given, last = await entered(flight, 3)
    waiting.cancel()
    await asyncio.sleep(0)
    flight.leave()  # the place is given to the second, which is cancelled before it runs
    given.cancel()
    await asyncio.wait({waiting, given, last}, timeout=5)
    assert (waiting.cancelled(), given.cancelled(), last.done()) == (True, True, True)
    assert not last.cancelled()
    flight.leave()
    await asyncio.wait_for(flight.enter(), 5)


async def test_of_a_volley_of_refusals_only_the_first_halves() -> None:
    seconds = Seconds()
    flight = Flight(64, monotonic=seconds)
    for _ in range(24):
        await flight.enter()
    seconds.now += 1
    flight.halve(age=1.0)
    assert flight.allowed == 12  # of what was in flight, and not of what might have been
    for late in (0.1, 0.5):
        seconds.now += 0.1
        flight.halve(age=1.0 + late)
    assert flight.allowed == 12
    seconds.now += 5
    flight.halve(age=1.0)
    assert flight.allowed == 6


async def test_it_grows_back_by_one_with_each_round() -> None:
    seconds = Seconds()
    flight = Flight(8, monotonic=seconds)
    for _ in range(8):
        await flight.enter()
    flight.halve(age=0.0)
    waiting = await entered(flight, 2)
    for _ in range(4):
        flight.leave()
    await asyncio.sleep(0)
    assert (flight.allowed, inside(waiting)) == (4, [])
    for _ in range(4):
        flight.succeeded()
    await asyncio.sleep(0)
    assert (flight.allowed, inside(waiting)) == (5, [0])
    for _ in range(5 + 6 + 7 + 100):
        flight.succeeded()
    assert flight.allowed == 8


@given(st.integers(1, 9), st.lists(st.sampled_from(["enter", "leave", "halve", "success"])))
async def test_never_more_than_allowed_enter_and_never_fewer_than_one(
    most: int, todo: list[str]
) -> None:
    seconds = Seconds()
    flight = Flight(most, monotonic=seconds)
    tasks: list[asyncio.Task[None]] = []
    flying = 0
    for what in todo:
        seconds.now += 1
        before = len(inside(tasks))
        if what == "enter":
            tasks += await entered(flight, 1)
        elif what == "leave" and flying:
            flight.leave()
            flying -= 1
        elif what == "halve":
            flight.halve(age=0.5)
        else:
            flight.succeeded()
        await asyncio.sleep(0)
        came = len(inside(tasks)) - before
        flying += came
        assert came == 0 or flying <= flight.allowed
        assert 1 <= flight.allowed <= most
        assert flying >= min(flight.allowed, flying + len(tasks) - len(inside(tasks)))
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
