"""A run from its beginning to the verdict."""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.chaos.account import Account
from tests.chaos.database import Database
from tests.chaos.injector import Injector
from tests.chaos.messages import Post
from tests.chaos.observing import Observer
from tests.chaos.outcome import Options, Outcome, troubles, verdict_of
from tests.chaos.plant import Plant
from tests.chaos.schedule import Planned, draw_schedule
from tests.chaos.sender import Sender
from tests.chaos.traffic import Traffic
from tests.chaos.world import World, draw_world

SAY_EVERY = 5.0
# Longer than the longest delay of a call that is on its way to Stripe.
QUIET = 4.0
POLL = 0.25

Say = Callable[[str], None]


async def run(options: Options, folder: Path, say: Say) -> Outcome:
    """A whole run in a folder of its own; nothing is left running.

    Raises where the harness cannot go on (TimeoutError where it takes longer than it may); the
    ends of all logs are said before.
    """
    schedule = draw_schedule(
        seed=options.seed, faults=options.faults, seconds=options.seconds, least=options.least
    )
    steps = sum(planned.kind == "clock_forward" for planned in schedule)
    now = int(time.time())
    world = draw_world(seed=options.seed, windows=options.windows, steps=steps, now=now)
    plant = Plant(folder, Database(folder / "pg", dict(options.database)), options.launcher)
    try:
        return await _Run(options, world, plant, say).all(schedule)
    except BaseException:
        say(plant.logs())
        raise
    finally:
        await plant.end()


class _Run:
    """The parts of one run."""

    def __init__(self, options: Options, world: World, plant: Plant, say: Say) -> None:
        dice = random.Random(options.seed)  # noqa: S311 - a run that repeats itself
        self._options = options
        self._world = world
        self._plant = plant
        self._say = say
        self._began = time.monotonic()
        self._account = Account()
        self._sender = Sender([serve.url or "" for serve in plant.serves], self._account, dice)
        plant.secrets = list(self._sender.secrets)
        self._observer = Observer(plant.database)
        self._traffic = Traffic(world, Post(dice), self._sender, dice)
        self._injector = Injector(
            plant, self._sender, self._observer, world.changes, options.lengths
        )
        self._injector.on_clock_moved = lambda: self._traffic.clock_moved(plant.now)

    async def all(self, schedule: Sequence[Planned]) -> Outcome:
        """Start, faults and traffic, until nothing is left, the verdict."""
        options, plant, sender = self._options, self._plant, self._sender
        try:
            async with asyncio.timeout(options.within):
                await plant.start(self._world)
                self._say(f"{self._since():6.1f} s  everything runs")
                beside = [asyncio.create_task(doing) for doing in (self._tell(), plant.keep())]
                try:
                    await self._faults_and_traffic(schedule)
                    self._say(f"{self._since():6.1f} s  no more faults; until nothing is left")
                    left = await self._nothing_left()
                finally:
                    for task in beside:
                        task.cancel()
                await plant.stripe.settled(quiet=QUIET)
            verdict, trouble = await verdict_of(
                options, self._world, self._account, plant, self._observer
            )
            recoveries = self._injector.recoveries
            trouble += troubles(left, plant, sender, recoveries)
            if trouble or not verdict.clean:
                self._say(plant.logs())
            return Outcome(
                options=options,
                verdict=verdict,
                recoveries=recoveries,
                trouble=tuple(trouble),
                messages=self._traffic.messages,
                sent=dict(sender.done),
                answers=dict(sender.answers),
                starts=sum(replica.starts for replica in plant.replicas),
                moved=plant.moved,
                seconds=self._since(),
                postgresql=await self._observer.version(),
            )
        finally:
            await sender.close()

    async def _faults_and_traffic(self, schedule: Sequence[Planned]) -> None:
        over = asyncio.Event()
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._traffic.run(self._options.seconds, over))
            async with asyncio.TaskGroup() as faults:
                for planned in schedule:
                    await asyncio.sleep(max(began + planned.at - time.monotonic(), 0))
                    faults.create_task(self._injector.inject(planned), name=planned.kind)
            over.set()

    async def _nothing_left(self) -> dict[str, int]:
        """Wait until the program has nothing to do; returns what is left in the end.

        What is held is left to somebody: the run has no cause for that.
        """
        while True:
            left = await self._observer.to_do()
            waits = {what for what in left if not what.startswith("held ")}
            if not waits or self._since() > self._options.within - 3 * QUIET:
                return left
            await asyncio.sleep(POLL)

    async def _tell(self) -> None:
        while True:
            await asyncio.sleep(SAY_EVERY)
            recoveries = self._injector.recoveries
            self._say(
                f"{self._since():6.1f} s  {recoveries.injected.total()} of {self._options.faults} "
                f"faults, {recoveries.waiting} not over; {len(self._account.told):,} windows in "
                f"{len(self._sender.accepted):,} messages accepted; left: "
                f"{_listed(await self._observer.to_do())}"
            )

    def _since(self) -> float:
        return time.monotonic() - self._began


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {what}" for what, count in counts.items()) or "nothing"
