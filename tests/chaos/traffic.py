"""The webhooks of a run: evenly over its time, with corrections, resends, delays and forgeries."""

import asyncio
import random
import time
from collections import deque
from collections.abc import Coroutine
from typing import Any

from tests.chaos.messages import Message, Post
from tests.chaos.sender import Sender
from tests.chaos.usage import (
    Corrections,
    LiveUsage,
    Report,
    before_the_subscription,
    monthly_reports,
)
from tests.chaos.world import World

AT_ONCE = 24
CORRECTED = 0.15
DELAYED = 0.15
TWICE = 0.08
RESENT = 0.10
FORGED = 0.02
LONGEST_DELAY = 4.0
# While faults go on something must be sent, or nothing would show that the way is free again.
AFTERWARDS_EVERY = 0.3


class Traffic:
    """Tells the reports of a world, and what its subjects use as the clock goes on."""

    def __init__(self, world: World, post: Post, sender: Sender, dice: random.Random) -> None:
        self._post = post
        self._sender = sender
        self._dice = dice
        self._corrections = Corrections(dice)
        self._live = LiveUsage(world, dice)
        reports = [*monthly_reports(world, dice), *self._live.reports(world.now)]
        dice.shuffle(reports)
        self._queue = deque([before_the_subscription(world, dice), *reports])
        self._told: list[Report] = []
        self._slots = asyncio.Semaphore(AT_ONCE)
        self.messages = 0

    def clock_moved(self, now: int) -> None:
        """More windows are over."""
        self._queue.extend(self._live.reports(now))

    async def run(self, seconds: float, over: asyncio.Event) -> None:
        """Send everything in about so many seconds, and corrections until it is `over`.

        Returns when every message was accepted.
        """
        deadline = time.monotonic() + seconds
        async with asyncio.TaskGroup() as sending:
            while self._queue or not over.is_set():
                if self._queue:
                    self._tell(self._queue.popleft(), sending)
                    left = (deadline - time.monotonic()) / (len(self._queue) + 1)
                    await asyncio.sleep(max(left, 0))
                else:
                    self._send(self._corrections.of(self._dice.choice(self._told)), sending)
                    await asyncio.sleep(AFTERWARDS_EVERY)
                # Not more than the slots: what waits for one is no traffic.
                async with self._slots:
                    pass

    def _tell(self, report: Report, sending: asyncio.TaskGroup) -> None:
        self._send(report, sending)
        self._told.append(report)
        if self._dice.random() < CORRECTED:
            # Of any report so far; now and then the message that it corrects is not there yet.
            corrected = self._dice.choice((report, self._dice.choice(self._told)))
            self._send(self._corrections.of(corrected), sending)
        if self._dice.random() < RESENT and self._sender.accepted:
            self._begin(self._sender.resend(self._dice.choice(self._sender.accepted)), sending)
        if self._dice.random() < FORGED:
            forged = self._post.message(self._corrections.of(report))
            self._begin(self._sender.forge(forged), sending)

    def _send(self, report: Report, sending: asyncio.TaskGroup) -> None:
        message = self._post.message(report)
        self.messages += 1
        draw = self._dice.random()
        if draw < TWICE:
            self._begin(self._sender.deliver_twice_at_once(message), sending)
        elif draw < TWICE + DELAYED:
            self._begin(self._later(message), sending)
        else:
            self._begin(self._sender.deliver(message), sending)

    async def _later(self, message: Message) -> None:
        self._sender.done["overtaken"] += 1
        await asyncio.sleep(self._dice.uniform(0.2, LONGEST_DELAY))
        await self._sender.deliver(message)

    def _begin(self, doing: Coroutine[Any, Any, object], sending: asyncio.TaskGroup) -> None:
        async def slotted() -> None:
            async with self._slots:
                await doing

        sending.create_task(slotted())
