"""Processes of the bench: the program itself, loads and rivals; and what they have used."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import psutil

from app.commands.demo_children import clean_environment

T = TypeVar("T")

PROJECT = Path(__file__).parent.parent
# The program as its own script starts it, ended by the kernel where the bench is killed (on Linux;
# PR_SET_PDEATHSIG is 1). With a file to write to, what it spends its time on is sampled.
PROGRAM = """\
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if "BENCH_PROFILE" in os.environ:
    from bench.sampler import sample_when_told
    sample_when_told(os.environ.pop("BENCH_PROFILE"))
from app.cli import main
main()
"""
_POLL = 0.02
_STOP_TIMEOUT = 40.0


class ProcessFailed(Exception):
    """A process ended, or did not do in time what was awaited. The message says what it said."""


class Process:
    """A process with its output in a file. Ended by `stop`, or at the end of its block."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        folder: Path,
        settings: Mapping[str, str] | None = None,
        talks: bool = False,
    ) -> None:
        self.name = name
        self._log = folder / f"{name}.log"
        environment = clean_environment(os.environ)
        environment["PYTHONPATH"] = str(PROJECT)
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(  # noqa: S603 - the bench's own commands
                list(command),
                cwd=folder,
                env=environment | dict(settings or {}),
                stdin=subprocess.PIPE if talks else subprocess.DEVNULL,
                stdout=subprocess.PIPE if talks else output,
                stderr=output,
                start_new_session=True,  # Ctrl-C is the bench's: it stops them one by one
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

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def said(self) -> str:
        """All it has said so far, but for what it tells the bench."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def failure(self, what: str) -> ProcessFailed:
        """The error that says what it failed to do, and what it said last."""
        tail = "\n".join(self.said().splitlines()[-15:])
        return ProcessFailed(f"{self.name}: {what}. It said last:\n{tail}")

    def until(self, look: Callable[[], T | None], *, seconds: float = 60.0, what: str) -> T:
        """Look again and again until there is something. Raises ProcessFailed."""
        deadline = time.monotonic() + seconds
        while (found := look()) is None:
            if self._process.poll() is not None:
                raise self.failure(f"ended with exit code {self._process.returncode}")
            if time.monotonic() >= deadline:
                raise self.failure(f"{what} took longer than {seconds:g} s")
            time.sleep(_POLL)
        return found

    def finish(self, *, seconds: float = 600.0) -> None:
        """Wait until it has ended by itself. Raises ProcessFailed."""
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise self.failure(f"took longer than {seconds:g} s") from None
        if code != 0:
            raise self.failure(f"ended with exit code {code}")

    def tell(self, line: str) -> None:
        """Say something to a process that talks."""
        assert self._process.stdin is not None  # noqa: S101 - of those that talk
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()

    def hear(self) -> Any:
        """The next line of a process that talks, as JSON. Raises ProcessFailed where it ended."""
        assert self._process.stdout is not None  # noqa: S101 - of those that talk
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            raise self.failure(f"ended with exit code {self._process.returncode}")
        return json.loads(line)

    def begin_samples(self) -> None:
        """Have a program that was started with BENCH_PROFILE be sampled from now on."""
        self._process.send_signal(signal.SIGUSR2)

    def kill(self) -> None:
        """End it as a crash would."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """Ask it to end, and wait; one that does not is killed."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        if self._process.poll() is None:
            self._process.terminate()
        try:
            self._process.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.kill()


def program(*arguments: str) -> list[str]:
    """The command line of this very program."""
    return [sys.executable, "-c", PROGRAM, *arguments]


def module(name: str, *arguments: str) -> list[str]:
    """The command line of one of the bench's own modules."""
    return [sys.executable, "-m", name, *arguments]


def cpu_seconds(pids: Iterable[int]) -> float:
    """Seconds of processor time (user and system) that processes have used."""
    used = 0.0
    for pid in pids:
        times = psutil.Process(pid).cpu_times()
        used += times.user + times.system
    return used


def family_cpu_seconds(pid: int) -> float:
    """The same of a process and its children, those that have ended included."""
    parent = psutil.Process(pid)
    times = parent.cpu_times()
    used = times.user + times.system + times.children_user + times.children_system
    for child in parent.children(recursive=True):
        try:
            seen = child.cpu_times()
        except psutil.NoSuchProcess:
            continue
        used += seen.user + seen.system
    return float(used)
