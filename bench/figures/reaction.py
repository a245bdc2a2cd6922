"""How long a webhook takes to become a call to Stripe, at 50 a second."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.account import one_each
from bench.arithmetic import Verdict, at_most, median, percentile, rounded, spread
from bench.context import Bench
from bench.load import Plan
from bench.processes import cpu_seconds
from bench.result import Line, Measured
from bench.sampler import table
from bench.sending import loading
from bench.stage import FigureFailed, Stage, open_stage
from bench.traffic import Message, began, reports, units

SUBJECTS = 200
PER_SECOND = 50.0
# Webhooks that are not counted: those of the first two seconds open connections and fill caches.
WARM_UP = 100
_CALLED = """
    select d.svix_id, extract(epoch from d.received_at)::float8 as received,
           extract(epoch from w.booked_at)::float8 as booked,
           extract(epoch from min(a.started_at))::float8 as called
    from deliveries d join usage_windows w on w.delivery_id = d.id
    join attempts a on a.usage_record_id = w.usage_record_id
    group by d.id, w.id
"""


@dataclass(frozen=True, slots=True)
class _Way:
    """When a webhook came where, in seconds since the sender wrote its first byte."""

    received: float
    booked: float
    called: float


async def measure(bench: Bench) -> Measured:
    """Send one webhook every 20 ms, and look up when each became a call."""
    each = bench.size(4)
    messages = list(reports(subjects=SUBJECTS, each=each, since=began(), windows=1))
    runs, busy = [], []
    for number in range(bench.repeats):
        async with open_stage(bench, "reaction", one_each(SUBJECTS)) as stage:
            ways, cores = await _ways(stage, messages)
        runs.append(ways)
        busy.append(cores)
        bench.say(
            f"run {number + 1}: p50 {_ms(runs[-1], 0.50, _CALL):.1f} ms, "
            f"p99 {_ms(runs[-1], 0.99, _CALL):.1f} ms, {busy[-1]:.2f} of a core"
        )
    middles, tails = ([_ms(ways, share, _CALL) for ways in runs] for share in (0.50, 0.99))
    line = Line(
        f"webhook received -> Stripe called, p99 in ms at {PER_SECOND:g}/s, sandbox at 0 ms",
        "",
        at_most(100),
        median(tails),
        f"p50 {spread(middles, rounded)} ms, p99 {spread(tails, rounded)} ms",
    )
    how = f"""
        {len(messages):,} webhooks of one window, one every {1000 / PER_SECOND:g} ms, to one
        `meterbridge serve` with `DISPATCH_LINGER=0`, of {SUBJECTS} subscriptions; the first
        {WARM_UP}, which open connections and fill caches, are not counted. From the moment
        at which the sender writes the first byte of a webhook to the moment at which the bridge
        begins its call (`attempts.started_at`; both clocks are this machine's). The bridge uses
        {median(busy):.2f} of a core.
    """
    profile = None
    if bench.profile and line.verdict is Verdict.MISSED:
        async with open_stage(bench, "reaction", one_each(SUBJECTS)) as stage:
            path = stage.folder / "profile.json"
            await _ways(stage, messages, profile=path)
            stage.stack.close()  # the samples are written at the end
            profile = table(path)
    return Measured((line,), how, (_table(runs),), profile)


_STEPS: Sequence[tuple[str, Callable[[_Way], float]]] = (
    ("written by the sender -> read and verified", lambda way: way.received),
    ("-> committed, and its booking begins", lambda way: way.booked - way.received),
    ("-> booked, claimed, and its call begins", lambda way: way.called - way.booked),
    ("all", lambda way: way.called),
)
_CALL = _STEPS[-1][1]


def _ms(ways: Sequence[_Way], share: float, step: Callable[[_Way], float]) -> float:
    return percentile([step(way) for way in ways], share) * 1000


def _table(runs: Sequence[Sequence[_Way]]) -> str:
    rows = ["| step | p50, ms | p99, ms |", "| --- | --- | --- |"]
    for title, step in _STEPS:
        middle, tail = (median([_ms(ways, share, step) for ways in runs]) for share in (0.5, 0.99))
        rows.append(f"| {title} | {rounded(middle)} | {rounded(tail)} |")
    return "\n".join(rows)


async def _ways(
    stage: Stage, messages: list[Message], *, profile: Path | None = None
) -> tuple[list[_Way], float]:
    """The way of each webhook, and the cores that the bridge used."""
    service = stage.serve(with_worker=True, profile=profile, DISPATCH_LINGER="0")
    plan = Plan(
        service.url, stage.secret, "", count=len(messages), rate=PER_SECOND, tells_times=True
    )
    with loading(messages, plan, stage.folder) as load:
        used = cpu_seconds([service.process.pid])
        result = load.run()
        cores = (cpu_seconds([service.process.pid]) - used) / result.seconds
    await stage.until_done(service.process, seconds=60)
    stage.check(units(messages))
    async with stage.database.connect() as connection:
        rows = {row["svix_id"]: row for row in await connection.fetch(_CALLED)}
    if rows.keys() != result.sent.keys():
        raise FigureFailed("not every webhook became a call")
    ways = [
        _Way(*(rows[svix_id][step] - sent for step in ("received", "booked", "called")))
        for svix_id, sent in list(result.sent.items())[WARM_UP:]
    ]
    return ways, cores
