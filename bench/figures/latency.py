"""The same when every call to Stripe takes 200 ms: what keeps 256 calls in flight."""

from bench.account import one_each
from bench.arithmetic import Verdict, at_least, median, rounded, spread
from bench.context import Bench
from bench.delivered import deliver
from bench.result import Line, Measured
from bench.sampler import table
from bench.stage import open_stage
from bench.traffic import WINDOWS, began, reports

SUBJECTS = 1_024
IN_FLIGHT = 256
LATENCY_MS = 200
_MOST = IN_FLIGHT * 1000 / LATENCY_MS


async def measure(bench: Bench) -> Measured:
    """Deliver to a slow sandbox."""
    messages = list(reports(subjects=SUBJECTS, each=bench.size(3), since=began()))
    runs = []
    for number in range(bench.repeats):
        async with open_stage(bench, "latency", one_each(SUBJECTS)) as stage:
            stage.account.change(write_latency_ms=LATENCY_MS)
            runs.append(await deliver(stage, messages, STRIPE_IN_FLIGHT=str(IN_FLIGHT)))
        bench.say(f"run {number + 1}: {runs[-1].rate:,.0f}/s, steadily {runs[-1].steady:,.0f}/s")
    rates = [run.rate for run in runs]
    line = Line(
        f"the same at {LATENCY_MS} ms latency, {IN_FLIGHT} in flight",
        f"{IN_FLIGHT} / latency",
        at_least(0.85),
        median(rates) / _MOST,
        f"{spread(rates, rounded)} /s",
        f"{rounded(_MOST)} /s",
    )
    profile = None
    if bench.profile and line.verdict is Verdict.MISSED:
        async with open_stage(bench, "latency", one_each(SUBJECTS)) as stage:
            stage.account.change(write_latency_ms=LATENCY_MS)
            await deliver(stage, messages, profile=True, STRIPE_IN_FLIGHT=str(IN_FLIGHT))
            profile = table(stage.folder / "profile.json")
    steady = median([run.steady for run in runs])
    how = f"""
        {len(messages) * WINDOWS:,} windows of {SUBJECTS:,} subscriptions; each call holds its
        subscription's lock at the sandbox for {LATENCY_MS} ms. From the first webhook to the last
        answer, so with the first booking and with the last lanes, when not all calls in flight are
        used any more. Between the tenth and the ninetieth percent of the answers:
        {rounded(steady)} /s, {steady / _MOST:.2f} of what is possible. So
        {steady * LATENCY_MS / 1000:.0f} calls were at Stripe on average; an answer for the places
        of the others was there, and waited for the process's one thread, which receives and books
        in the same time.
    """
    return Measured((line,), how, profile=profile)
