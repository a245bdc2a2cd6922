"""What a window costs where ten million others are, beside ten thousand."""

import shutil
import time
from collections import Counter
from dataclasses import dataclass, field

from bench.account import one_each
from bench.arithmetic import at_most, median, ratios, rounded, spread
from bench.context import Bench
from bench.delivered import Delivered, deliver
from bench.history import multiply
from bench.result import Line, Measured
from bench.stage import FigureFailed, Stage, open_stage
from bench.traffic import MINUTE, WINDOWS, began, reports, units

SUBJECTS = 500
FEW = 10_000
# Windows of a minute: twenty days hold so many of them, and some are still to come.
MOST = 27_000 * SUBJECTS
_BYTES_PER_ROW = 1_600  # of windows, records, attempts, deliveries and their indexes


@dataclass(slots=True)
class _Place:
    """A stage with its history, and what was sent there since."""

    stage: Stage
    each: int
    sent: int = 0
    held: Counter[str] = field(default_factory=Counter)
    runs: list[Delivered] = field(default_factory=list)


async def measure(bench: Bench) -> Measured:
    """Fill two databases, and deliver the same to both in turns."""
    if not FEW <= bench.rows <= MOST:
        raise FigureFailed(f"--rows takes {FEW:,} to {MOST:,}")
    needed = bench.rows * _BYTES_PER_ROW
    free = shutil.disk_usage(bench.folder).free
    if free < needed:
        return Measured(
            (
                _line(
                    bench.rows, None, f"needs {needed >> 30} GB of disk, {free >> 30} are free", ""
                ),
            ),
            "Name a folder with more room with TMPDIR, or fewer rows with `--rows`.",
        )
    accounts = one_each(SUBJECTS)
    async with (
        open_stage(bench, "few", accounts) as few_stage,
        open_stage(bench, "many", accounts) as many_stage,
    ):
        few = await _filled(few_stage, FEW)
        bench.say(f"filling {bench.rows:,} rows")
        began_at = time.perf_counter()
        many = await _filled(many_stage, bench.rows)
        seconds = time.perf_counter() - began_at
        async with many_stage.database.connect() as connection:
            size = await connection.fetchval("select pg_database_size(current_database())")
        bench.say(f"{bench.rows:,} rows, {size / 2**30:.1f} GB, filled in {seconds:.0f} s")
        for number in range(bench.repeats + 1):
            for place in (few, many):
                await _deliver(place, bench.size(2))
            bench.say(
                f"run {number}: {few.runs[-1].rate:,.0f} windows/s among {FEW:,}, "
                f"{many.runs[-1].rate:,.0f} among {bench.rows:,}"
            )
    return _measured(bench, few.runs[1:], many.runs[1:], size, seconds)  # the first warms up


async def _filled(stage: Stage, rows: int) -> _Place:
    """Have the program write one window of each subject, and multiply that."""
    place = _Place(stage, rows // SUBJECTS)
    messages = list(reports(subjects=SUBJECTS, each=1, since=began(), windows=1))
    await deliver(stage, messages)
    place.held = units(messages)
    await multiply(stage.database, place.each)
    return place


async def _deliver(place: _Place, each: int) -> None:
    since = began() + (place.each + 2 + place.sent) * MINUTE
    messages = list(reports(subjects=SUBJECTS, each=each, since=since))
    place.runs.append(await deliver(place.stage, messages, before=place.held))
    place.held += units(messages)
    place.sent += each * WINDOWS


def _measured(
    bench: Bench, few: list[Delivered], many: list[Delivered], size: int, seconds: float
) -> Measured:
    took = median(ratios([_time(run) for run in many], [_time(run) for run in few]))
    used = median(ratios([_cpu(run) for run in many], [_cpu(run) for run in few]))
    line = _line(
        bench.rows,
        max(took, used),
        _costs(many),
        _costs(few),
    )
    how = f"""
        Two databases with {SUBJECTS} subjects, whose open period holds {FEW:,} and {bench.rows:,}
        windows, each with a record and an attempt, and an eighth as many deliveries
        ({size / 2**30:.1f} GB, filled in {seconds:.0f} s out of rows that the program wrote). In
        turns, {many[0].windows:,} further windows of the same subjects go from webhook to reported
        as in the figure `end_to_end`. The cost is the time and the processor time (bridge and
        PostgreSQL) of a window; the worse of the two ratios counts: time {took:.2f}, processor time
        {used:.2f}.
    """
    return Measured((line,), how)


def _line(rows: int, got: float | None, ours: str, rival: str) -> Line:
    return Line(f"cost per window at {rows:,} rows", f"at {FEW:,}", at_most(1.2), got, ours, rival)


def _costs(runs: list[Delivered]) -> str:
    times, used = [_time(run) for run in runs], [_cpu(run) for run in runs]
    return f"{spread(times, _us)}, CPU {spread(used, _us)}"


def _time(run: Delivered) -> float:
    return run.seconds / run.windows


def _cpu(run: Delivered) -> float:
    return run.each("bridge") + run.each("postgres")


def _us(seconds: float) -> str:
    return f"{rounded(seconds * 1e6)} µs"
