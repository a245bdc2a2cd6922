"""One process of the program, started again and again under the same name."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import httpx

from tests.acceptance.processes import ROOT
from tests.chaos.clocks import ClockFile

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
        url: str | None = None,
    ) -> None:
        self.name = name
        self.url = url
        self.works = words[0] == "worker" or "--no-worker" not in words
        self.busy = asyncio.Lock()
        self.log = folder / f"{name}.log"
        self.clock = ClockFile(folder / f"{name}.clock")
        self._clocks = f"{world_clock.path},{self.clock.path}"
        self._words = list(words)
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._wanted = False
        self.starts = 0
        self.gave_up: list[int] = []
        """The exit statuses with which it ended by itself."""

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The process as it was started last."""
        assert self._process is not None, f"{self.name} was never started"
        return self._process

    @property
    def identity(self) -> str:
        """What the program calls this process in its database."""
        return f"{socket.gethostname()}:{self.process.pid}"

    def start(self) -> None:
        """Start it; it is not ready yet. To be called from the main thread: it dies with it."""
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.program", self._clocks, *self._words],
                cwd=self.log.parent,  # where no .env lies
                env=kept | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **self._settings()},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._wanted = True
        self.starts += 1

    def keep(self) -> None:
        """As whatever looks after it in production does: start it again if it ended by itself."""
        status = self.process.poll()
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
        self.process.kill()
        await self._ended()

    async def stop(self) -> None:
        """SIGTERM, and wait for the end."""
        self._wanted = False
        self.process.terminate()
        await self._ended()

    async def _ended(self) -> None:
        deadline = time.monotonic() + ENDED_WITHIN
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"{self.name} does not end: {self.tail()}"
            await asyncio.sleep(0.01)

    def pause(self) -> None:
        """SIGSTOP."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self.process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        """Leave nothing behind."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def tail(self, characters: int = 4_000) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-characters:] if self.log.exists() else ""
