"""Real processes: starting them, finding them, waiting for them."""

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

ROOT = Path(__file__).parents[2]

DEADLINE = 60.0


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Poll until the condition holds; a failure after a minute names what did not come."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.005)


def servers_on(folder: Path) -> list[psutil.Process]:
    """The postmasters whose cluster lies in the folder."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            cluster = words[words.index("-D") + 1] if "-D" in words else None
            if cluster == str(folder.resolve() / "postgres") and words[0].endswith("/postgres"):
                found.append(process)
    return found


def gone(pid: int) -> bool:
    """Whether the process has ended; a zombie has."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


class Owner:
    """A child process running `tests.embedded.owner`."""

    def __init__(self, folder: Path, variant: str = "plain") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.embedded.owner", str(folder), variant],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def report(self) -> dict[str, Any]:
        """What it says once its server answers; blocks until then."""
        assert self.process.stdout is not None
        report: dict[str, Any] = json.loads(self.process.stdout.readline())
        return report

    def kill(self) -> None:
        """End it as `kill -9` does."""
        self.process.kill()
        self.process.wait()

    def leave(self) -> None:
        """Let it stop its server and end."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(DEADLINE) == 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


@contextlib.contextmanager
def no_server_left(folder: Path) -> Iterator[None]:
    """Stop what a failing test leaves behind, by the pids of its own folder."""
    try:
        yield
    finally:
        for process in servers_on(folder):
            with contextlib.suppress(psutil.Error):
                process.kill()
                process.wait(DEADLINE)
