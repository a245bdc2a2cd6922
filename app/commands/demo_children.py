"""The demo's child processes: the real program, with settings of the demo's own and no others."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from app.config import Settings

T = TypeVar("T")

# What the `meterbridge` script does, whatever it is called here. On Linux the kernel ends the child
# when the demo is killed (PR_SET_PDEATHSIG is 1): a demo that a CI job gives up leaves nothing.
_ENTRY = """\
import ctypes, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
from app.cli import main
main()
"""
_POLL = 0.05
_STOP_TIMEOUT = 15.0
_SETTINGS = frozenset(name.upper() for name in Settings.model_fields)


class ChildFailed(Exception):
    """A child ended, or did not do in time what was awaited. The message is one line."""

    def __init__(self, message: str, child: "Child") -> None:
        super().__init__(message)
        self.child = child


def clean_environment(given: Mapping[str, str]) -> dict[str, str]:
    """`given` without any setting of the program, in whatever case (settings ignore it).

    A real STRIPE_API_KEY, or the address of a real database, never reaches a child. PG* variables
    are dropped, too: the PostgreSQL client obeys them.
    """
    return {
        name: value
        for name, value in given.items()
        if name.upper() not in _SETTINGS and not name.startswith("PG")
    }


def free_port() -> int:
    """A loopback port that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as bound:
        port: int = bound.getsockname()[1]
        return port


class Child:
    """One process of the program. Its output goes to a log file in `folder`, where it also runs:
    no `.env` lies there."""

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        folder: Path,
        environment: Mapping[str, str],
    ) -> None:
        self.command = " ".join(["meterbridge", *arguments])
        self.log = folder / f"{arguments[0]}.log"
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(  # noqa: S603 - this very program
                [sys.executable, "-c", _ENTRY, *arguments],
                cwd=folder,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Ctrl-C is the demo's: it stops its children one after the other.
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def output(self) -> str:
        """All that it has said."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def tail(self, lines: int = 20) -> str:
        """The end of what it has said."""
        return "\n".join(self.output().splitlines()[-lines:])

    def ended_within(self, seconds: float) -> int | None:
        """Its exit code; None where it still runs after so long."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def require_running(self) -> None:
        """Raises ChildFailed where it has ended."""
        code = self.process.poll()
        if code is not None:
            raise ChildFailed(f"`{self.command}` ended with exit code {code}", self)

    def until(self, look: Callable[[], T | None], *, seconds: float, what: str) -> T:
        """Look again and again, until there is something. Raises ChildFailed."""
        deadline = time.monotonic() + seconds
        while (found := look()) is None:
            self.require_running()
            if time.monotonic() >= deadline:
                raise ChildFailed(f"`{self.command}`: {what} took longer than {seconds:g} s", self)
            time.sleep(_POLL)
        return found

    def finish(self, *, seconds: float) -> str:
        """Wait until it has done its work; returns what it said. Raises ChildFailed."""
        code = self.ended_within(seconds)
        if code is None:
            raise ChildFailed(f"`{self.command}` took longer than {seconds:g} s", self)
        if code != 0:
            raise ChildFailed(f"`{self.command}` ended with exit code {code}", self)
        return self.output()

    def stop(self) -> None:
        """Ask it to end, and wait; one that does not is killed."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        if self.ended_within(_STOP_TIMEOUT) is None:
            self.process.kill()
            self.process.wait()


def children_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """The environment of the demo's children: this process's, cleaned, with settings of its own."""
    return clean_environment(os.environ) | dict(settings)
