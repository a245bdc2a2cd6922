"""Two ways to a process of the program: a Python of its own, or a fork of one that has loaded it.

A start of Python costs two seconds of a processor, which `make test` cannot pay a dozen times over.
A fork is a process like any other from then on: killed, paused, with settings of its own.
"""

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tests.acceptance.processes import ROOT
from tests.chaos.program import run_as

PRELOADED = (
    "tests.chaos.program",
    "app.bootstrap",
    "app.commands.serving",
    "app.sandbox.server",
    "app.worker",
)


@dataclass(frozen=True, slots=True)
class Command:
    """What to run: clocks and words of `tests.chaos.program`, settings, and where it writes."""

    clocks: Sequence[Path]
    words: Sequence[str]
    settings: Mapping[str, str]
    log: Path

    @property
    def environment(self) -> dict[str, str]:
        """Nothing of ours but what a process needs to run at all."""
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        return kept | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **self.settings}


class Launched(Protocol):
    """A process that was started."""

    @property
    def pid(self) -> int:
        """Its id."""
        ...

    @property
    def status(self) -> int | None:
        """Its exit status, a signal below zero; None while it runs."""
        ...


class Launcher(Protocol):
    """Starts a process. To be called from the main thread: Linux ends it with that thread."""

    def __call__(self, command: Command) -> Launched: ...


class _Executed:
    def __init__(self, command: Command) -> None:
        clocks = ",".join(map(str, command.clocks))
        with command.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.program", clocks, *command.words],
                cwd=command.log.parent,  # where no .env lies
                env=command.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def status(self) -> int | None:
        return self._process.poll()


class _Forked:
    def __init__(self, command: Command) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(PRELOADED))
        self._process = context.Process(
            target=run_as,
            args=(command.clocks, command.words, command.environment, command.log),
            daemon=True,
        )
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def status(self) -> int | None:
        return self._process.exitcode


def executed(command: Command) -> Launched:
    """A Python of its own, as in production."""
    return _Executed(command)


def forked(command: Command) -> Launched:
    """A fork of a process that has loaded the program."""
    return _Forked(command)
