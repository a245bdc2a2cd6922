"""From webhook to reported, and its processor time, beside a bare loop of the HTTP client."""

from bench.account import one_each
from bench.arithmetic import Verdict, at_least, at_most, median, per_second, ratios, rounded, spread
from bench.bare import bare_posts
from bench.context import Bench
from bench.delivered import Delivered, deliver
from bench.posting import Posted
from bench.result import Line, Measured
from bench.sampler import table
from bench.stage import no_limit, open_stage
from bench.traffic import WINDOWS, Message, began, reports

SUBJECTS = 256
IN_FLIGHT = 64


async def measure(bench: Bench) -> Measured:
    """Deliver as fast as it goes to a sandbox that answers at once; then POST the same, bare."""
    each = bench.size(8)
    messages = list(reports(subjects=SUBJECTS, each=each, since=began()))
    ours: list[Delivered] = []
    bare: list[Posted] = []
    for number in range(bench.repeats):
        ours.append(await _ours(bench, messages))
        async with open_stage(bench, "bare", one_each(SUBJECTS)) as stage:
            bare.append(bare_posts(stage, each=each * WINDOWS, concurrency=IN_FLIGHT))
        bench.say(
            f"run {number + 1}: {ours[-1].rate:,.0f} windows/s, "
            f"bare {per_second(bare[-1].calls, bare[-1].seconds):,.0f} POST/s; processor time a "
            f"window: {_shares(ours[-1:])}; of a bare POST {_us(bare[-1].cpu / bare[-1].calls)}"
        )
    rates = [run.rate for run in ours]
    posts = [per_second(run.calls, run.seconds) for run in bare]
    cost, floor = [run.each("bridge") for run in ours], [run.cpu / run.calls for run in bare]
    lines = (
        Line(
            "windows/s end to end (webhook to reported), sandbox at 0 ms, limit off",
            "bare loop of the same HTTP client POSTing to the sandbox",
            at_least(0.8),
            median(ratios(rates, posts)),
            f"{spread(rates, rounded)} /s",
            f"{spread(posts, rounded)} /s",
        ),
        Line(
            "CPU per window end to end",
            "CPU of the bare POST",
            at_most(1.5),
            median(ratios(cost, floor)),
            f"{spread(cost, _us)}",
            f"{spread(floor, _us)}",
        ),
    )
    profile = None
    if bench.profile and any(line.verdict is Verdict.MISSED for line in lines):
        bench.say("once more, with a profile")

        async with open_stage(bench, "end_to_end", one_each(SUBJECTS)) as stage:
            await deliver(stage, messages, profile=True, STRIPE_IN_FLIGHT=str(IN_FLIGHT))
            profile = table(stage.folder / "profile.json")
    return Measured(lines, _how(messages, ours), profile=profile)


async def _ours(bench: Bench, messages: list[Message]) -> Delivered:
    async with open_stage(bench, "end_to_end", one_each(SUBJECTS)) as stage:
        return await deliver(stage, messages, STRIPE_IN_FLIGHT=str(IN_FLIGHT))


def _how(messages: list[Message], ours: list[Delivered]) -> str:
    return f"""
        One `meterbridge serve` receives {len(messages):,} webhooks of {WINDOWS} windows, of
        {SUBJECTS} subjects with a subscription each, from 64 connections as fast as it answers,
        books them and sends a record for every window. The clock runs from the first byte of the
        first webhook to the last answer of Stripe's stand-in. {IN_FLIGHT} calls may be in flight;
        `DISPATCH_LINGER` is 0; `STRIPE_RATE_LIMIT` is {no_limit()}, the most that it takes. The
        bare loop has as many calls in flight, and knows neither a database nor a lane, a key that
        is written down, a retry or an audit trail.

        Two processors are shared by the bridge, PostgreSQL, the sandbox and the sender in our runs,
        by the loop and the sandbox in the rival's. Processor time for a window:
        {_shares(ours)}. The figure is that of the bridge's own process, beside that of the loop.
    """


def _shares(runs: list[Delivered]) -> str:
    return ", ".join(f"{who} {_us(median([run.each(who) for run in runs]))}" for who in runs[0].cpu)


def _us(seconds: float) -> str:
    return f"{rounded(seconds * 1e6)} µs"
