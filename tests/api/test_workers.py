"""Booking or sending that ends by an error: shown, started again, and receiving goes on."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import cast

import httpx
import pytest
from fastapi import FastAPI

from app.bootstrap import Services, working
from app.dispatch.dispatcher import Dispatcher
from app.ledger.loop import BookingLoop
from app.supervision import Supervisor
from app.workshop import RenewedDispatcher, Workshop


@dataclass
class Fake:
    """A loop that fails at first, or always."""

    failures: int
    runs: int = 0
    stopped: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, *, grace: float = 0) -> None:
        assert grace >= 0
        self.runs += 1
        if self.runs <= self.failures:
            raise ZeroDivisionError
        await self.stopped.wait()

    def wake(self) -> None:
        """Nothing to do."""

    def stop(self) -> None:
        self.stopped.set()


def _with(built: Services, booking: Fake, dispatcher: Fake, pause: float) -> Services:
    workshop = cast("Workshop", built.workshop)
    return replace(
        built,
        workshop=replace(
            workshop,
            booking=cast("BookingLoop", booking),
            dispatcher=cast("RenewedDispatcher", dispatcher),
            supervisor=Supervisor(pauses=(pause,)),
        ),
    )


async def _until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(30):
        while not await condition():
            await asyncio.sleep(0.01)


async def test_what_is_in_trouble_is_named_and_receiving_goes_on(
    app: FastAPI, built: Services, anonymous: httpx.AsyncClient
) -> None:
    app.state.services = made = _with(built, Fake(failures=1), Fake(failures=0), 3600)

    async def named() -> bool:
        return "workers" in (await anonymous.get("/readyz")).json()["failing"]

    async with asyncio.timeout(60):
        async with working(made):
            await _until(named)
            answer = await anonymous.get("/readyz")
            details = {check["name"]: check["detail"] for check in answer.json()["checks"]}
            assert details["workers"] == "booking: ZeroDivisionError; see the log"
            assert (await anonymous.get("/readyz/receive")).status_code == 200
        # And the block ends, though the loop would wait for an hour yet.


async def test_both_are_started_again(built: Services) -> None:
    booking, dispatcher = Fake(failures=3), Fake(failures=2)
    async with working(_with(built, booking, dispatcher, 0.001)):

        async def at_work() -> bool:
            return (booking.runs, dispatcher.runs) == (4, 3)

        await _until(at_work)


async def test_receiving_only_has_no_workers(
    app: FastAPI, built: Services, anonymous: httpx.AsyncClient
) -> None:
    app.state.services = replace(built, workshop=None)
    answer = await anonymous.get("/readyz")
    assert answer.status_code == 200
    details = {check["name"]: check["detail"] for check in answer.json()["checks"]}
    assert details["workers"] == "none in this process"


async def test_each_run_of_sending_has_a_dispatcher_of_its_own() -> None:
    built = [Fake(failures=1), Fake(failures=0)]
    left = list(built)
    renewed = RenewedDispatcher(lambda: cast("Dispatcher", left.pop(0)))
    with pytest.raises(ZeroDivisionError):
        await renewed.run(grace=0)
    again = asyncio.create_task(renewed.run(grace=0))

    async def runs() -> bool:
        return [fake.runs for fake in built] == [1, 1]

    await _until(runs)
    renewed.stop()
    async with asyncio.timeout(30):
        await again
