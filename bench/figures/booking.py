"""Windows booked by one process, beside COPY of the same rows."""

import asyncio
import io
import time
from dataclasses import dataclass

from bench.account import one_each
from bench.arithmetic import median, per_second, ratios, rounded, spread
from bench.context import Bench
from bench.database import Connection
from bench.processes import Process, cpu_seconds
from bench.result import Line, Measured
from bench.sampler import table
from bench.stage import Stage, open_stage
from bench.traffic import WINDOWS, Message, began, reports

SUBJECTS = 500
# Records fall due after the figure is over: nothing is sent while it is measured.
NEVER = "3600"
_WAITING = "select count(*) from deliveries where state = 'received'"


@dataclass(frozen=True, slots=True)
class _Run:
    booked: float
    copied: float
    cpu: float
    """Of the worker, in cores."""


async def measure(bench: Bench) -> Measured:
    """Book what waits, then COPY the rows that came of it."""
    messages = list(reports(subjects=SUBJECTS, each=bench.size(16), since=began()))
    runs = [await _run(bench, messages, number) for number in range(bench.repeats)]
    booked, copied = [run.booked for run in runs], [run.copied for run in runs]
    line = Line(
        "windows/s booked (step 2), one process",
        "COPY of the same rows",
        None,
        median(ratios(booked, copied)),
        f"{spread(booked, rounded)} /s",
        f"{spread(copied, rounded)} /s",
    )
    profile = None
    if bench.profile:
        async with open_stage(bench, "booking", one_each(SUBJECTS)) as stage:
            await _book(stage, messages, profile=True)
            profile = table(stage.folder / "profile.json")
    cores = median([run.cpu for run in runs])
    each = median([run.cpu / run.booked for run in runs]) * 1e6
    how = f"""
        {len(messages):,} deliveries of {WINDOWS} windows each, of {SUBJECTS} subjects, wait in the
        inbox; each window makes a record of its own. One `meterbridge worker` books them, and has
        nothing to send meanwhile; it uses {cores:.2f} of a core, {each:.0f} µs a
        window. The clock runs from the first batch that is booked to the last. The rival is one
        COPY of the rows of `usage_windows` that came of it, into an empty table with the same
        indexes and checks; booking writes series, totals, records and lanes beside them. The aim is
        0.25.
    """
    return Measured((line,), how, profile=profile)


async def _run(bench: Bench, messages: list[Message], number: int) -> _Run:
    async with open_stage(bench, "booking", one_each(SUBJECTS)) as stage:
        booked, cpu = await _book(stage, messages, profile=False)
        async with stage.database.connect() as connection:
            copied = await _copy(connection)
    bench.say(
        f"run {number + 1}: {booked:,.0f} booked/s, COPY {copied:,.0f}/s; "
        f"{cpu / booked * 1e6:.0f} µs of processor time a window"
    )
    return _Run(booked, copied, cpu)


async def _book(stage: Stage, messages: list[Message], *, profile: bool) -> tuple[float, float]:
    """Windows a second, and the cores that the worker used."""
    path = stage.folder / "profile.json" if profile else None
    async with stage.database.connect() as connection:
        await deliver(connection, messages)
        worker = stage.worker(profile=path, DISPATCH_LINGER=NEVER)
        first = await _next_batch(connection, len(messages), worker)
        if profile:
            worker.begin_samples()
        began_at, used = time.perf_counter(), cpu_seconds([worker.pid])
        left = first
        while left:
            left = await _next_batch(connection, left, worker)
        seconds = time.perf_counter() - began_at
        cpu = cpu_seconds([worker.pid]) - used
        stuck = await connection.fetchval(
            "select count(*) from usage_windows where state <> 'booked'"
        )
    worker.stop()
    if stuck:
        raise worker.failure(f"{stuck} windows were not booked")
    return per_second(first * WINDOWS, seconds), cpu / seconds


async def _next_batch(connection: Connection, waiting: int, worker: Process) -> int:
    """Wait until fewer deliveries wait; how many still do."""
    deadline = time.monotonic() + 60
    while (left := int(await connection.fetchval(_WAITING))) == waiting:
        await asyncio.sleep(0.02)
        if time.monotonic() > deadline:
            raise worker.failure("books nothing")
    return left


async def deliver(connection: Connection, messages: list[Message]) -> None:
    """Put deliveries into the inbox as step 1 leaves them, in one go."""
    await connection.execute(
        """
        insert into deliveries (svix_id, body, body_sha256, message_at, received_at, state)
        select 'msg_bench_' || number, body, sha256(body), now(), now(), 'received'
        from unnest($1::bytea[]) with ordinality as given (body, number)
        """,
        [message.body() for message in messages],
    )


async def _copy(connection: Connection) -> float:
    """Rows a second of one COPY of the booked windows."""
    names = [
        row["attname"]
        for row in await connection.fetch(
            "select attname from pg_attribute where attrelid = 'usage_windows'::regclass "
            "and attnum > 0 and not attisdropped order by attnum"
        )
    ]
    rows = io.BytesIO()
    await connection.copy_from_table("usage_windows", output=rows, columns=names, format="binary")
    await connection.execute("create table floor (like usage_windows including all)")
    rows.seek(0)
    began_at = time.perf_counter()
    status = await connection.copy_to_table("floor", source=rows, columns=names, format="binary")
    seconds = time.perf_counter() - began_at
    return per_second(int(status.split()[-1]), seconds)
