"""The real program, on a clock that can be moved from outside.

    python -m tests.chaos.program CLOCK,CLOCK WORDS...

WORDS are those of the command line, CLOCKs are files of `clocks.ClockFile`. On Linux it dies with
the harness, however that ends.
"""

import ctypes
import functools
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from app.cli import main
from tests.chaos.clocks import MovedClock

_PR_SET_PDEATHSIG = 1


def die_with_the_harness() -> None:
    """Ask the kernel for a SIGKILL when the thread that started us ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def put_on_the_clock(paths: Sequence[Path]) -> None:
    """What is built from now on reads the moved clock."""
    from app import bootstrap

    bootstrap.__dict__["SystemClock"] = functools.partial(MovedClock, paths)


if __name__ == "__main__":
    die_with_the_harness()
    clocks, *words = sys.argv[1:]
    if words[0] in ("serve", "worker"):
        put_on_the_clock([Path(path) for path in clocks.split(",")])
    sys.argv = ["meterbridge", *words]
    main()
