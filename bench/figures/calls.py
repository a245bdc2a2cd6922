"""How many calls to Stripe the windows of webhooks cost: a ledger of quantities, not a queue."""

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from decimal import Decimal

from app.commands.outgoing import OutgoingWindow
from bench.account import one_each
from bench.context import Bench
from bench.load import Plan
from bench.result import Line, Measured
from bench.sending import loading
from bench.stage import Service, Stage, open_stage
from bench.traffic import Message, began, reports, subject_name, units

SUBJECTS = 50
HOUR = timedelta(hours=1)
DAYS = 3
REVISIONS = 10


async def measure(bench: Bench) -> Measured:
    """Count the windows that were sent, and the calls that the sandbox executed."""
    lines = []
    for title, count in _CASES:
        windows, calls = await count(bench)
        bench.say(f"{title}: {windows:,} windows, {calls:,} calls")
        lines.append(
            Line(
                f"Stripe calls per window: {title}",
                "one call per window",
                None,
                calls / windows,
                f"{calls:,} calls",
                f"{windows:,} windows",
            )
        )
    how = f"""
        One `meterbridge serve` with the settings as they come (`DISPATCH_LINGER=1`), {SUBJECTS}
        subjects. Hourly windows: each subject's message of a day has 24, all messages of a day come
        at once, and {DAYS} days come one after the other; `record_per: period` makes one record of
        them all. Corrections: {REVISIONS} messages in a burst, each with another value of one
        hourly window. One item: {SUBJECTS} subjects pay by one subscription item, and each sends a
        day of 24 hourly windows; `record_per: window`. Counted are the calls that the sandbox
        executed; it holds every unit in the end.
    """
    return Measured(tuple(lines), how)


async def _hourly(bench: Bench) -> tuple[int, int]:
    messages = list(reports(subjects=SUBJECTS, each=DAYS, since=began(), windows=24, length=HOUR))
    days = [messages[day * SUBJECTS : (day + 1) * SUBJECTS] for day in range(DAYS)]
    async with open_stage(bench, "calls", one_each(SUBJECTS), record_per="period") as stage:
        return await _count(stage, days, units(messages))


async def _corrected(bench: Bench) -> tuple[int, int]:
    start = began() + HOUR
    burst = [
        Message(subject_name(number), (OutgoingWindow(Decimal(value), start, start + HOUR),))
        for value in range(1, REVISIONS + 1)
        for number in range(SUBJECTS)
    ]
    owed = Counter({subject_name(number): REVISIONS for number in range(SUBJECTS)})
    async with open_stage(bench, "calls", one_each(SUBJECTS)) as stage:
        return await _count(stage, [burst], owed)


async def _shared(bench: Bench) -> tuple[int, int]:
    messages = list(reports(subjects=SUBJECTS, each=1, since=began(), windows=24, length=HOUR))
    everybody = {subject_name(number): "sub_everybody" for number in range(SUBJECTS)}
    async with open_stage(bench, "calls", everybody) as stage:
        return await _count(stage, [messages], units(messages))


_CASES: Sequence[tuple[str, Callable[[Bench], Awaitable[tuple[int, int]]]]] = (
    ("hourly windows, 24 a message, `record_per: period`", _hourly),
    (f"bursts of {REVISIONS} corrections", _corrected),
    (f"{SUBJECTS} subjects on one item", _shared),
)


async def _count(
    stage: Stage, bursts: Sequence[Sequence[Message]], owed: Mapping[str, int]
) -> tuple[int, int]:
    """Windows sent and calls made; each burst waits until the one before is reported."""
    service = stage.serve(with_worker=True)
    for burst in bursts:
        await _send(stage, service, burst)
    stage.check(owed)
    windows = sum(len(message.windows) for burst in bursts for message in burst)
    return windows, stage.account.calls().executed


async def _send(stage: Stage, service: Service, burst: Sequence[Message]) -> None:
    plan = Plan(service.url, stage.secret, "", count=len(burst))
    with loading(burst, plan, stage.folder) as load:
        load.run()
    await stage.until_done(service.process, seconds=60)
