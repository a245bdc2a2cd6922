"""Simulates a year and writes docs/periods.md: `python -m tests.simulation`."""

import argparse
import gc
import logging
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import asyncpg
import uvloop
from sqlalchemy.engine import URL

from app.db import database_url
from app.embedded import start
from app.migrating import migrate
from tests.conftest import SERVER_SETTINGS, folder_in_memory
from tests.simulation.document import ALONE, PAGE, RECIPE, WITH_API, Measured, page
from tests.simulation.driver import Run, run_bridge, run_recipe
from tests.simulation.measuring import accounts, line
from tests.simulation.plans import YEAR
from tests.simulation.sharding import merged, shards
from tests.simulation.world import Course, draw_course

RUNS = ((RECIPE, 300), (ALONE, 300), (WITH_API, 300), (RECIPE, 0), (WITH_API, 0))
"""Ways to report, and how many seconds of grace Stripe gives."""

FOR_A_YEAR = {
    # Half of a million small statements would be planning: these are planned once a connection.
    "plan_cache_mode": "force_generic_plan",
    # And each of their commits a write of its own.
    "synchronous_commit": "off",
}


@contextmanager
def server() -> Iterator[URL]:
    """`TEST_DATABASE_URL`, or a server of our own."""
    given = os.environ.get("TEST_DATABASE_URL")
    if given:
        yield database_url(given)
        return
    with tempfile.TemporaryDirectory(prefix="mb-", dir=folder_in_memory()) as folder:
        Path(folder).chmod(0o755)
        running = start(Path(folder) / "pg", settings=SERVER_SETTINGS | FOR_A_YEAR)
        try:
            yield database_url(running.url)
        finally:
            running.stop()


async def simulate(course: Course, url: URL, *, grace: int, queries: bool) -> Run:
    """One way, on a database of its own."""
    name = f"mb_simulation_{uuid4().hex[:12]}"
    plain = url.set(drivername="postgresql").render_as_string(hide_password=False)
    admin = await asyncpg.connect(plain)
    try:
        await admin.execute(f'create database "{name}"')
        try:
            await migrate(url.set(database=name))
            own = url.set(database=name)
            return await run_bridge(course, own, grace=grace, queries=queries)
        finally:
            await admin.execute(f'drop database "{name}" with (force)')
    finally:
        await admin.close()


def _run_part(course: Course, url: URL, grace: int, queries: bool) -> Run:
    gc.set_threshold(100_000, 20, 100)
    return uvloop.run(simulate(course, url, grace=grace, queries=queries))


def measure(course: Course, url: URL, way: str, grace: int, parts: int) -> Measured:
    """One way to report the course; through meterbridge in `parts` side by side."""
    began = time.monotonic()
    if way == RECIPE:
        run = run_recipe(course, grace=grace)
    else:
        # Forked: the children see the course as it is, without half a million events being copied.
        with ProcessPoolExecutor(parts, multiprocessing.get_context("fork")) as pool:
            queries = way == WITH_API
            asked = [
                pool.submit(_run_part, part, url, grace, queries) for part in shards(course, parts)
            ]
            run = merged([part.result() for part in asked])
    taken = time.monotonic() - began
    return Measured(way, grace, run, accounts(course, run, grace=grace), run.python_seconds, taken)


def main() -> None:
    """Run everything and write the page."""
    parser = argparse.ArgumentParser(prog="tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--days", type=int, default=366)
    parser.add_argument("--parts", type=int, default=4)
    parser.add_argument("--page", type=Path, default=PAGE)
    asked = parser.parse_args()
    logging.disable(logging.WARNING)
    course = draw_course(YEAR, days=asked.days, seed=asked.seed)
    gc.collect()
    gc.freeze()  # half a million events, which are looked through again and again otherwise
    measured = []
    with server() as url:
        for way, grace in RUNS:
            one = measure(course, url, way, grace, asked.parts)
            measured.append(one)
            sums = line("all", one.accounts)
            sys.stdout.write(
                f"grace {grace} s, {way}: {one.seconds:.0f} s; "
                f"{sums.mean_seconds:.1f} s in the wrong period for each end\n"
            )
            sys.stdout.flush()
    asked.page.write_text(page(course, measured, days=asked.days, seed=asked.seed))
    sys.stdout.write(f"written: {asked.page}\n")


if __name__ == "__main__":
    main()
