"""How much of the allowed rate two workers use when there is always something to send."""

import asyncio
import time
from dataclasses import dataclass

from bench.account import one_each
from bench.arithmetic import at_least, at_most, median, rounded, spread
from bench.context import Bench
from bench.figures.booking import deliver
from bench.result import Line, Measured
from bench.stage import Stage, open_stage
from bench.traffic import began, reports

SUBJECTS = 200
LIMIT = 25
WORKERS = 2


@dataclass(frozen=True, slots=True)
class _Run:
    share: float
    limited: int


async def measure(bench: Bench) -> Measured:
    """Count the calls that the sandbox, whose limit is Stripe's, takes and refuses."""
    seconds = 10.0 if bench.quick else 20.0
    runs = []
    for number in range(bench.repeats):
        async with open_stage(bench, "pace", one_each(SUBJECTS)) as stage:
            runs.append(await _run(stage, seconds))
        bench.say(f"run {number + 1}: {runs[-1].share:.3f} of the limit, {runs[-1].limited} 429s")
    shares = [run.share for run in runs]
    limited = [float(run.limited) for run in runs]
    lines = (
        Line(
            f"share of the allowed rate used at {LIMIT}/s, with a backlog, two workers",
            "the limit",
            at_least(0.98),
            median(shares),
            f"{spread([share * LIMIT for share in shares], rounded)} calls/s",
            f"{LIMIT} calls/s",
        ),
        Line(
            "429s seen meanwhile", "none", at_most(0), max(limited), f"{spread(limited, rounded)}"
        ),
    )
    how = f"""
        {WORKERS} `meterbridge worker` processes with `STRIPE_RATE_LIMIT={LIMIT}` on one database,
        {SUBJECTS} subscriptions with more records due than can be sent. The sandbox refuses what
        exceeds {LIMIT} calls in any one second, without a burst, which is stricter than Stripe.
        Counted over {seconds:g} s after the first ten calls; 429s from the start, the most of any
        repeat.
    """
    return Measured(lines, how)


async def _run(stage: Stage, seconds: float) -> _Run:
    account = stage.account
    account.change(limit_per_second=LIMIT)
    # Twice what can be sent: the last lanes are never empty.
    each = int(2 * LIMIT * seconds / SUBJECTS / 8) + 1
    async with stage.database.connect() as connection:
        await deliver(connection, list(reports(subjects=SUBJECTS, each=each, since=began())))
    workers = [
        stage.worker(number, STRIPE_RATE_LIMIT=str(LIMIT), DISPATCH_LINGER="0")
        for number in range(WORKERS)
    ]
    workers[0].until(lambda: account.calls().executed >= 10 or None, what="ten calls")
    before, began_at = account.calls().executed, time.perf_counter()
    await asyncio.sleep(seconds)
    calls, passed = account.calls(), time.perf_counter() - began_at
    for worker in workers:
        worker.stop()
    return _Run((calls.executed - before) / (LIMIT * passed), calls.limited)
