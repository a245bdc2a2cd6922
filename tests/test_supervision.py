"""Loops that end by an error: started again ever more slowly, named while in trouble, stoppable."""

import asyncio
import logging
from collections.abc import Callable

import pytest

from app.supervision import PAUSES, SETTLED_AFTER, Supervisor


class Defect(Exception):
    pass


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Loop:
    """Fails as often as told, after `lasts` seconds each; then runs until it is let go."""

    def __init__(self, clock: Clock, *, failures: int, lasts: float = 0) -> None:
        self.runs = 0
        self._clock = clock
        self._failures = failures
        self._lasts = lasts
        self.let_go = asyncio.Event()

    async def run(self) -> None:
        self.runs += 1
        if self.runs <= self._failures:
            self._clock.now += self._lasts
            raise Defect
        await self.let_go.wait()


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.001)


def _pauses(caplog: pytest.LogCaptureFixture) -> list[str]:
    records = [record for record in caplog.records if record.name == "app.supervision"]
    assert all(record.levelno == logging.CRITICAL for record in records)
    assert all(record.exc_info and record.exc_info[0] is Defect for record in records)
    return [record.getMessage().rpartition(" again in ")[2] for record in records]


def test_the_pauses_double_up_to_half_a_minute() -> None:
    assert PAUSES == (1, 2, 4, 8, 16, 30)


async def test_a_loop_is_started_again_ever_more_slowly(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    supervisor = Supervisor(pauses=(0.001, 0.002, 0.003), monotonic=clock)
    loop = Loop(clock, failures=5)
    task = asyncio.create_task(supervisor.run("booking", loop.run))
    await _until(lambda: loop.runs == 6)
    assert _pauses(caplog) == ["0.001 s", "0.002 s", "0.003 s", "0.003 s", "0.003 s"]
    supervisor.stop()
    loop.let_go.set()
    await task
    assert loop.runs == 6


async def test_a_loop_that_was_well_for_long_begins_anew(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    supervisor = Supervisor(pauses=(0.001, 0.002), monotonic=clock)
    loop = Loop(clock, failures=3, lasts=SETTLED_AFTER)
    task = asyncio.create_task(supervisor.run("booking", loop.run))
    await _until(lambda: loop.runs == 4)
    assert _pauses(caplog) == ["0.001 s"] * 3
    supervisor.stop()
    loop.let_go.set()
    await task


async def test_trouble_is_named_until_the_loop_has_settled() -> None:
    clock = Clock()
    supervisor = Supervisor(pauses=(0.001,), monotonic=clock)
    sick, well = Loop(clock, failures=1), Loop(clock, failures=0)
    tasks = [
        asyncio.create_task(supervisor.run("booking", sick.run)),
        asyncio.create_task(supervisor.run("dispatcher", well.run)),
    ]
    assert supervisor.troubles() == {}
    await _until(lambda: sick.runs == 2)
    assert supervisor.troubles() == {"booking": "Defect"}
    clock.now += SETTLED_AFTER - 1
    assert supervisor.troubles() == {"booking": "Defect"}
    clock.now += 1
    assert supervisor.troubles() == {}
    supervisor.stop()
    sick.let_go.set()
    well.let_go.set()
    await asyncio.gather(*tasks)


async def test_a_stop_does_not_wait_for_the_next_start() -> None:
    clock = Clock()
    supervisor = Supervisor(pauses=(3600,), monotonic=clock)
    loop = Loop(clock, failures=1)
    task = asyncio.create_task(supervisor.run("booking", loop.run))
    await _until(lambda: supervisor.troubles() != {})
    clock.now += 2 * SETTLED_AFTER
    assert supervisor.troubles() == {"booking": "Defect"}, "it does not run: it cannot settle"
    supervisor.stop()
    async with asyncio.timeout(30):
        await task
    assert loop.runs == 1


async def test_a_loop_that_ends_unasked_is_in_trouble_too() -> None:
    supervisor = Supervisor(pauses=(3600,))

    async def end() -> None:
        """Return at once."""

    task = asyncio.create_task(supervisor.run("booking", end))
    await _until(lambda: supervisor.troubles() == {"booking": "RuntimeError"})
    supervisor.stop()
    await task


async def test_cancelling_is_no_trouble() -> None:
    clock = Clock()
    supervisor = Supervisor(monotonic=clock)
    loop = Loop(clock, failures=0)
    task = asyncio.create_task(supervisor.run("booking", loop.run))
    await _until(lambda: loop.runs == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert supervisor.troubles() == {}
