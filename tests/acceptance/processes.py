"""The real program as processes of its own: started, watched, killed."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[2]
DEADLINE = 60.0
RUN_CLI = "from app.cli import main; main()"
KILLED = -signal.SIGKILL


async def until(condition: Callable[[], Awaitable[object]], what: str) -> None:
    """Poll until the condition holds; a failure names what did not come."""
    deadline = time.monotonic() + DEADLINE
    while not await condition():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        await asyncio.sleep(0.02)


def _environment(settings: Mapping[str, str]) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return kept | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"} | dict(settings)


class Program:
    """One process of the program. Its output goes to `log`."""

    def __init__(
        self,
        words: list[str],
        *,
        settings: Mapping[str, str],
        log: Path,
        crash: tuple[str, str] | None = None,
    ) -> None:
        """Start it. `crash` is (step, moment): it kills itself there (see `crash.py`)."""
        start = ["-c", RUN_CLI] if crash is None else ["-m", "tests.acceptance.crash", *crash]
        self.name = " ".join(words)
        self.log = log
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, *start, *words],
                cwd=log.parent,  # where no .env lies
                env=_environment(settings),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    @property
    def status(self) -> int | None:
        """The exit status; None while it runs."""
        return self.process.poll()

    async def ended(self) -> int:
        """Wait for its end; returns the exit status."""

        async def over() -> bool:
            return self.status is not None

        await until(over, f"{self.name} ends")
        assert self.status is not None
        return self.status

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; returns the exit status."""
        self.process.send_signal(number)
        return await self.ended()

    def kill(self) -> None:
        """End it as `kill -9` does, if it still runs."""
        self.process.kill()
        self.process.wait()

    def output(self) -> str:
        """What it has written so far."""
        return self.log.read_text(errors="replace")


async def answering(url: str, program: Program) -> None:
    """Wait until somebody answers 200 at the URL."""
    async with httpx.AsyncClient(trust_env=False, timeout=5) as client:

        async def well() -> bool:
            assert program.status is None, f"{program.name} ended:\n{program.output()}"
            try:
                return (await client.get(url)).status_code == 200
            except httpx.HTTPError:
                return False

        await until(well, f"{url} answers")


async def run(words: list[str], *, settings: Mapping[str, str], folder: Path) -> tuple[int, str]:
    """Run a command to its end; returns exit status and output."""
    log = folder / f"{'-'.join(words[:2]).replace('/', '_')}-{time.monotonic_ns()}.log"
    program = Program(words, settings=settings, log=log)
    return await program.ended(), program.output()
