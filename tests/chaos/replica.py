"""One process of the program, started again and again under the same name."""

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import httpx

from tests.chaos.clocks import ClockFile
from tests.chaos.launching import Command, Launched, Launcher

STARTED_WITHIN = 90.0
ENDED_WITHIN = 60.0
POLL = 0.05


class Replica:
    """A process that is killed, paused and started again. One thing at a time: hold `busy`.

    `settings` is asked at each start, so that a new secret is in force from the next one on.
    """

    def __init__(
        self,
        name: str,
        words: Sequence[str],
        *,
        folder: Path,
        world_clock: ClockFile,
        settings: Callable[[], Mapping[str, str]],
        launcher: Launcher,
        url: str | None = None,
    ) -> None:
        self.name = name
        self.url = url
        self.works = words[0] == "worker" or "--no-worker" not in words
        self.busy = asyncio.Lock()
        self.log = folder / f"{name}.log"
        self.clock = ClockFile(folder / f"{name}.clock")
        self._clocks = (world_clock.path, self.clock.path)
        self._words = list(words)
        self._settings = settings
        self._launcher = launcher
        self._process: Launched | None = None
        self._wanted = False
        self.starts = 0
        self.gave_up: list[int] = []
        """The exit statuses with which it ended by itself."""

    @property
    def process(self) -> Launched:
        """The process as it was started last."""
        assert self._process is not None, f"{self.name} was never started"
        return self._process

    @property
    def identity(self) -> str:
        """How the name begins that the program gives this process in its database."""
        return f"{socket.gethostname()}:{self.process.pid}:"

    def start(self) -> None:
        """Start it; it is not ready yet. To be called from the main thread: it dies with it."""
        self._process = self._launcher(
            Command(self._clocks, self._words, self._settings(), self.log)
        )
        self._wanted = True
        self.starts += 1

    def keep(self) -> None:
        """As whatever looks after it in production does: start it again if it ended by itself."""
        status = self.process.status
        if self._wanted and status is not None:
            self.gave_up.append(status)
            self.start()

    async def answering(self, path: str) -> None:
        """Wait until an address of it answers 200."""
        deadline = time.monotonic() + STARTED_WITHIN
        async with httpx.AsyncClient(trust_env=False, timeout=5) as client:
            while True:
                assert time.monotonic() < deadline, f"{self.name} does not answer"
                with contextlib.suppress(httpx.HTTPError):
                    if (await client.get(f"{self.url}{path}")).status_code == 200:
                        return
                await asyncio.sleep(POLL)

    async def kill(self) -> None:
        """As `kill -9`."""
        self._wanted = False
        self._signal(signal.SIGKILL)
        await self._ended()

    async def stop(self) -> None:
        """SIGTERM, and wait for the end."""
        self._wanted = False
        self._signal(signal.SIGTERM)
        await self._ended()

    async def _ended(self) -> None:
        deadline = time.monotonic() + ENDED_WITHIN
        while self.process.status is None:
            assert time.monotonic() < deadline, f"{self.name} does not end: {self.tail()}"
            await asyncio.sleep(0.01)

    def pause(self) -> None:
        """SIGSTOP."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def end(self) -> None:
        """Leave nothing behind."""
        self._wanted = False
        if self._process is not None:
            self._signal(signal.SIGKILL)
            deadline = time.monotonic() + ENDED_WITHIN
            while self._process.status is None and time.monotonic() < deadline:
                time.sleep(0.01)

    def _signal(self, number: signal.Signals) -> None:
        # Once its status is known, the id may be another's.
        if self.process.status is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, number)

    def tail(self, characters: int = 4_000) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-characters:] if self.log.exists() else ""
