"""Runs the fault harness: `python -m tests.chaos --seed 1`. Exit code 1 if anything is wrong."""

import argparse
import asyncio
import logging
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.chaos.launching import executed, forked
from tests.chaos.outcome import Options
from tests.chaos.report import PAGE, page, text
from tests.chaos.run import run
from tests.chaos.sabotage import SABOTAGE

# Of the time there is: the rest is for what is left to do, and the comparison.
SHARE = 0.65


def asked() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--faults", type=int, default=500)
    parser.add_argument("--windows", type=int, default=100_000)
    parser.add_argument("--minutes", type=float, default=20.0, help="that it may take in all")
    parser.add_argument("--page", type=Path, help=f"write the page ({PAGE.name}) here")
    parser.add_argument("--sabotage", choices=sorted(SABOTAGE), help="falsify the evidence")
    parser.add_argument("--forks", action="store_true", help="quicker starts, on a busy machine")
    parser.add_argument("--keep", type=Path, help="run in this folder, and leave the logs there")
    return parser.parse_args()


def say(line: str) -> None:
    """A line on the terminal, at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


@contextmanager
def folder(kept: Path | None) -> Iterator[Path]:
    """Where a run has its database, clocks and logs."""
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
        yield kept
        return
    with tempfile.TemporaryDirectory(prefix="mb-", ignore_cleanup_errors=True) as name:
        yield Path(name)


def main() -> int:
    """Run, print, write the page; returns the exit code."""
    wanted = asked()
    logging.disable(logging.CRITICAL)
    options = Options(
        seed=wanted.seed,
        faults=wanted.faults,
        windows=wanted.windows,
        seconds=wanted.minutes * 60 * SHARE,
        within=wanted.minutes * 60,
        sabotage=wanted.sabotage,
        launcher=forked if wanted.forks else executed,
    )
    with folder(wanted.keep) as place:
        place.chmod(0o755)  # PostgreSQL runs as another user where we are root
        try:
            outcome = asyncio.run(run(options, place, say))
        except TimeoutError:
            say(f"FAILED: not over within {wanted.minutes:g} minutes")
            return 1
    say(text(outcome))
    if wanted.page is not None:
        wanted.page.write_text(page(outcome))
        say(f"written: {wanted.page}")
    return 0 if outcome.clean else 1


if __name__ == "__main__":
    raise SystemExit(main())
