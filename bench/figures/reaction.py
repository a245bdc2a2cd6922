"""How long a webhook takes to become a call to Stripe, at 50 a second."""

from bench.account import one_each
from bench.arithmetic import at_most, median, percentile, rounded, spread
from bench.context import Bench
from bench.load import Plan
from bench.result import Line, Measured
from bench.sending import loading
from bench.stage import FigureFailed, Stage, open_stage
from bench.traffic import Message, began, reports, units

SUBJECTS = 200
PER_SECOND = 50.0
_CALLED = """
    select d.svix_id, extract(epoch from min(a.started_at))::float8 as at
    from deliveries d join usage_windows w on w.delivery_id = d.id
    join attempts a on a.usage_record_id = w.usage_record_id
    group by d.svix_id
"""


async def measure(bench: Bench) -> Measured:
    """Send one webhook every 20 ms, and look up when each became a call."""
    each = bench.size(4)
    messages = list(reports(subjects=SUBJECTS, each=each, since=began(), windows=1))
    middles, tails = [], []
    for number in range(bench.repeats):
        async with open_stage(bench, "reaction", one_each(SUBJECTS)) as stage:
            waits = await _waits(stage, messages)
        middles.append(percentile(waits, 0.50) * 1000)
        tails.append(percentile(waits, 0.99) * 1000)
        bench.say(f"run {number + 1}: p50 {middles[-1]:.1f} ms, p99 {tails[-1]:.1f} ms")
    line = Line(
        f"webhook received -> Stripe called, p99 in ms at {PER_SECOND:g}/s, sandbox at 0 ms",
        "",
        at_most(100),
        median(tails),
        f"p50 {spread(middles, rounded)} ms, p99 {spread(tails, rounded)} ms",
    )
    how = f"""
        {len(messages):,} webhooks of one window, one every {1000 / PER_SECOND:g} ms, to one
        `meterbridge serve` with `DISPATCH_LINGER=0`, of {SUBJECTS} subscriptions. From the moment
        at which the sender writes the first byte of a webhook to the moment at which the bridge
        begins its call (`attempts.started_at`; both clocks are this machine's).
    """
    return Measured((line,), how)


async def _waits(stage: Stage, messages: list[Message]) -> list[float]:
    """Seconds from each webhook to its call."""
    service = stage.serve(with_worker=True, DISPATCH_LINGER="0")
    plan = Plan(
        service.url, stage.secret, "", count=len(messages), rate=PER_SECOND, tells_times=True
    )
    with loading(messages, plan, stage.folder) as load:
        result = load.run()
    await stage.until_done(service.process, seconds=60)
    stage.check(units(messages))
    async with stage.database.connect() as connection:
        called = {row["svix_id"]: row["at"] for row in await connection.fetch(_CALLED)}
    if called.keys() != result.sent.keys():
        raise FigureFailed("not every webhook became a call")
    return [called[svix_id] - sent for svix_id, sent in result.sent.items()]
