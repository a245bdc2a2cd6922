"""Webhooks accepted durably by one process, beside one-row INSERTs by pgbench; forged ones."""

from dataclasses import dataclass

from app.commands.demo_stage import webhook_secret
from bench import pgbench
from bench.account import one_each
from bench.arithmetic import at_least, at_most, median, per_second, ratios, rounded, spread
from bench.context import Bench
from bench.load import Plan, Result
from bench.processes import cpu_seconds
from bench.result import Line, Measured
from bench.sampler import table
from bench.sending import loading
from bench.stage import FigureFailed, Service, Stage, open_stage
from bench.traffic import Message, began, reports

CONNECTIONS = 64
_BODIES = 512


@dataclass(frozen=True, slots=True)
class _Run:
    accepted: float
    floor: float
    load: Result
    cpu: float
    """Of the service, in cores."""
    refused: float
    """Forged webhooks for a second of the service's processor time."""

    @property
    def each(self) -> float:
        """Seconds of the service's processor time for a webhook."""
        return self.cpu / self.accepted


async def measure(bench: Bench) -> Measured:
    """Receive as fast as 64 connections send, then let pgbench write the same body."""
    messages = list(reports(subjects=_BODIES, each=1, since=began()))
    runs = [await _run(bench, messages, number) for number in range(bench.repeats)]
    accepted, floors = [run.accepted for run in runs], [run.floor for run in runs]
    tails = [run.load.p99 / run.load.p50 for run in runs]
    refused = [run.refused for run in runs]
    lines = (
        Line(
            f"webhooks/s accepted durably, {CONNECTIONS} connections, 8 windows each, one process",
            f"pgbench, {pgbench.CLIENTS} clients, one-row INSERT of the same body",
            at_least(0.40),
            median(ratios(accepted, floors)),
            f"{spread(accepted, rounded)} /s",
            f"{spread(floors, rounded)} /s",
        ),
        Line(
            "p99 / p50 of the same",
            "",
            at_most(2),
            median(tails),
            f"p50 {_ms([run.load.p50 for run in runs])}, p99 {_ms([run.load.p99 for run in runs])}",
        ),
        Line(
            "forged webhooks refused, for a second of processor time",
            "",
            at_least(5_000),
            median(refused),
            f"{spread([1e6 / each for each in refused], rounded)} µs each",
        ),
    )
    profile = None
    if bench.profile and any(line.verdict == "not met" for line in lines):
        profile = await _profiled(bench, messages)
    busy = median([run.cpu for run in runs])
    each = median([run.each for run in runs]) * 1e6
    sender = median([run.load.cpu / run.load.seconds for run in runs])
    how = f"""
        `meterbridge serve --no-worker` takes reports of {len(messages[0].body())} bytes from a
        sender in a process of its own, which waits for each answer before it sends the next on a
        connection. Requests are signed by svix before the clock starts, and written by bare
        protocols, so that the sender is not what is measured.

        Two processors are shared by the service ({busy:.2f} of a core, {each:.0f} µs a webhook),
        PostgreSQL's writer and the sender ({sender:.2f}). pgbench has both for itself and its
        {pgbench.CLIENTS} sessions, over a Unix socket, with prepared statements; it neither parses,
        nor verifies, nor tells duplicates. The limit is the one processor on which a process of
        Python runs: with {each:.0f} µs it takes {rounded(1e6 / each)} webhooks/s at most, however
        quick the database is. More processes share the work; this figure is of one.

        Then as many connections send the same reports, signed with a secret that is not ours. What
        such a flood costs is processor time; the rate depends on who shares the processors.
    """
    return Measured(lines, how, profile=profile)


async def _run(bench: Bench, messages: list[Message], number: int) -> _Run:
    seconds = 3.0 if bench.quick else 8.0
    async with open_stage(bench, "ingest", one_each(1)) as stage:
        service = _serve(stage, profile=False)
        load, cpu = await _receive(stage, service, messages, seconds)
        refused = _refuse(stage, service, messages, bench.size(40_000))
        service.process.stop()
        floor = await pgbench.inserts_per_second(
            stage.database, messages[0].body(), seconds=seconds, folder=stage.folder
        )
    accepted = per_second(load.answered, load.seconds)
    run = _Run(accepted, floor, load, cpu, refused)
    bench.say(
        f"run {number + 1}: {accepted:,.0f} accepted/s, pgbench {floor:,.0f}/s; "
        f"{run.each * 1e6:.0f} µs of processor time a webhook, {1e6 / refused:.0f} µs a forged one"
    )
    return run


def _serve(stage: Stage, *, profile: bool) -> Service:
    return stage.serve(
        with_worker=False, profile=stage.folder / "profile.json" if profile else None
    )


async def _receive(
    stage: Stage, service: Service, messages: list[Message], seconds: float
) -> tuple[Result, float]:
    plan = Plan(
        service.url,
        stage.secret,
        "",
        connections=CONNECTIONS,
        seconds=seconds,
        warm_up=1.0,
    )
    result, used = _sent(stage, service, messages, plan, answer="202")
    async with stage.database.connect() as connection:
        kept = await connection.fetchval("select count(*) from deliveries")
    if kept < result.answered:
        raise FigureFailed(f"{result.answered} were accepted, {kept} are there")
    return result, used / (seconds + plan.warm_up)


def _refuse(stage: Stage, service: Service, messages: list[Message], count: int) -> float:
    plan = Plan(service.url, webhook_secret(), "", connections=CONNECTIONS, count=count)
    result, used = _sent(stage, service, messages, plan, answer="401")
    return per_second(result.answered, used)


def _sent(
    stage: Stage, service: Service, messages: list[Message], plan: Plan, *, answer: str
) -> tuple[Result, float]:
    with loading(messages, plan, stage.folder) as load:
        before = cpu_seconds([service.process.pid])
        result = load.run(answer=answer)
        return result, cpu_seconds([service.process.pid]) - before


async def _profiled(bench: Bench, messages: list[Message]) -> str:
    async with open_stage(bench, "ingest", one_each(1)) as stage:
        service = _serve(stage, profile=True)
        await _receive(stage, service, messages, 5.0)
        service.process.stop()
        return table(stage.folder / "profile.json")


def _ms(values: list[float]) -> str:
    return spread(values, lambda seconds: f"{rounded(seconds * 1000)} ms")
