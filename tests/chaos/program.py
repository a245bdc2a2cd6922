"""The real program, on a clock that can be moved from outside.

    python -m tests.chaos.program CLOCK,CLOCK WORDS...

WORDS are those of the command line, CLOCKs are files of `clocks.ClockFile`. On Linux it dies with
the harness, however that ends.
"""

import ctypes
import functools
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from app.cli import main
from tests.chaos.clocks import MovedClock

_PR_SET_PDEATHSIG = 1
_ON_A_CLOCK = ("serve", "worker")


def run(clocks: Sequence[Path], words: Sequence[str]) -> None:
    """Run the program; returns or raises SystemExit as it does."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if words[0] in _ON_A_CLOCK:
        # Not for the others: it takes half of their start.
        from app import bootstrap

        bootstrap.__dict__["SystemClock"] = functools.partial(MovedClock, clocks)
    sys.argv = ["meterbridge", *words]
    main()


def run_as(
    clocks: Sequence[Path], words: Sequence[str], environment: Mapping[str, str], log: Path
) -> None:
    """Run the program in a process that was forked: with its own environment, log and folder."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(output, stream.fileno())
    os.chdir(log.parent)  # where no .env lies
    os.environ.clear()
    os.environ.update(environment)
    run(clocks, words)


if __name__ == "__main__":
    named, *given = sys.argv[1:]
    run([Path(path) for path in named.split(",")], given)
