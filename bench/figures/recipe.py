"""The published recipe, mended so that it works, side by side with the bridge."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from bench import harness
from bench.account import one_each
from bench.arithmetic import median, per_second, ratios, rounded, spread
from bench.context import Bench
from bench.delivered import deliver
from bench.figures.end_to_end import IN_FLIGHT, SUBJECTS
from bench.load import Plan
from bench.node import Recipe, RecipeMissing, install
from bench.resender import Sent, send_all
from bench.result import Line, Measured
from bench.sending import loading
from bench.stage import Stage, open_stage
from bench.traffic import WINDOWS, Message, began, reports, units


@dataclass(frozen=True, slots=True)
class _Rate:
    """Webhooks a second until all is at Stripe, and calls for each."""

    webhooks: float
    calls: float


@dataclass(frozen=True, slots=True)
class _Harmed:
    """What the harness did to one of the two."""

    sent: Sent
    calls: int
    by_case: dict[str, harness.Account]

    @property
    def wrong(self) -> int:
        """Units lost or doubled."""
        return sum(found.lost + found.doubled for found in self.by_case.values())


async def measure(bench: Bench) -> Measured:
    """Let both do the same: as fast as they can, and then under the harness."""
    try:
        folder = install()
    except RecipeMissing as missing:
        line = Line("the published recipe beside ours", "ours", None, None, str(missing))
        return Measured((line,), "Install node and npm, and run `make bench ARGS=recipe`.")
    messages = list(reports(subjects=SUBJECTS, each=bench.size(8), since=began()))
    ours, theirs = [], []
    for number in range(bench.repeats):
        async with open_stage(bench, "recipe", one_each(SUBJECTS)) as stage:
            ours.append(await _our_rate(stage, messages))
        async with open_stage(bench, "recipe", one_each(SUBJECTS)) as stage:
            recipe = Recipe(stage, folder, stage.account.subscriptions)
            theirs.append(_its_rate(stage, recipe, messages))
        bench.say(
            f"run {number + 1}: {ours[-1].webhooks:,.0f} webhooks/s, "
            f"the recipe {theirs[-1].webhooks:,.0f}"
        )
    async with open_stage(bench, "recipe", harness.subscriptions()) as stage:
        our_harm = await _our_harm(stage)
    bench.say(f"under the harness: {our_harm.wrong} units wrong, {our_harm.sent.attempts} attempts")
    async with open_stage(bench, "recipe", harness.subscriptions()) as stage:
        its_harm = await _its_harm(stage, Recipe(stage, folder, stage.account.subscriptions))
    bench.say(f"the recipe: {its_harm.wrong} units wrong, {its_harm.sent.attempts} attempts")
    return _measured(ours, theirs, our_harm, its_harm)


async def _our_rate(stage: Stage, messages: list[Message]) -> _Rate:
    before = stage.account.calls().total
    run = await deliver(stage, messages, STRIPE_IN_FLIGHT=str(IN_FLIGHT))
    calls = stage.account.calls().total - before
    return _Rate(per_second(len(messages), run.seconds), calls / len(messages))


def _its_rate(stage: Stage, recipe: Recipe, messages: list[Message]) -> _Rate:
    before = stage.account.calls().total
    plan = Plan(recipe.url, stage.secret, "", count=len(messages))
    with loading(messages, plan, stage.folder) as load:
        result = load.run(answer="200")
    stage.check(units(messages))
    calls = stage.account.calls().total - before
    return _Rate(per_second(len(messages), result.seconds), calls / len(messages))


async def _our_harm(stage: Stage) -> _Harmed:
    limit = str(harness.LIMIT)
    service = stage.serve(with_worker=True, STRIPE_RATE_LIMIT=limit)

    def restart() -> None:
        nonlocal service
        service.process.kill()
        service = stage.serve(with_worker=True, STRIPE_RATE_LIMIT=limit)

    sent, messages = await _harm(stage, lambda: service.url, restart)
    await stage.until_done(service.process, seconds=240)
    return _accounted(stage, sent, messages)


async def _its_harm(stage: Stage, recipe: Recipe) -> _Harmed:
    sent, messages = await _harm(stage, lambda: recipe.url, recipe.restart)
    return _accounted(stage, sent, messages)


async def _harm(
    stage: Stage, url: Callable[[], str], restart: Callable[[], None]
) -> tuple[Sent, list[Message]]:
    """Send all messages while Stripe and the receiver fail."""
    messages = harness.messages(began())
    stage.account.change(limit_per_second=harness.LIMIT)
    for fault in harness.FAULTS:
        stage.account.inject(**fault)

    async def kill() -> None:
        start = time.perf_counter()
        for at in harness.KILLS:
            await asyncio.sleep(max(at - (time.perf_counter() - start), 0))
            await asyncio.to_thread(restart)

    killing = asyncio.create_task(kill())
    sent = await send_all(messages, url=url, secret=stage.secret, first_at=time.time() - 60)
    await killing
    return sent, messages


def _accounted(stage: Stage, sent: Sent, messages: list[Message]) -> _Harmed:
    stage.account.heal()
    held = stage.account.held()
    return _Harmed(sent, stage.account.calls().total, harness.settle(messages, held))


def _measured(
    ours: list[_Rate], theirs: list[_Rate], our_harm: _Harmed, its_harm: _Harmed
) -> Measured:
    rates, its_rates = [run.webhooks for run in ours], [run.webhooks for run in theirs]
    calls, its_calls = median([run.calls for run in ours]), median([run.calls for run in theirs])
    recipe = "the published recipe, mended, in Node"
    lines = (
        Line(
            f"webhooks/s until all is at Stripe, {WINDOWS} windows each",
            recipe,
            None,
            median(ratios(rates, its_rates)),
            f"{spread(rates, rounded)} /s",
            f"{spread(its_rates, rounded)} /s",
        ),
        Line(
            "calls to Stripe for such a webhook",
            recipe,
            None,
            calls / its_calls,
            rounded(calls),
            rounded(its_calls),
        ),
        Line(
            "units lost or doubled under the harness",
            recipe,
            None,
            float(our_harm.wrong),
            f"{our_harm.wrong:,}",
            f"{its_harm.wrong:,}",
        ),
    )
    how = f"""
        The recipe is `bench/recipe/handler.mjs`, with `stripe` and `svix` of npm at the versions in
        `package.json`. It answers when Stripe has taken all records of a webhook, one after the
        other; its database of subscriptions is a map in memory. Ours is `end_to_end` once more.

        Under the harness {our_harm.sent.messages:,} messages come as Svix sends them: 16 at once,
        what is not answered 2xx again and again with growing delays (Svix's schedule, a thousand
        times as fast), while later ones go on. Stripe takes {harness.LIMIT} calls a second of each
        endpoint and answers 429 to more; of its usage-record calls one in twenty is executed and
        its answer cut off, one in twenty refused for a lock. The receiver is killed twice and
        started again. An account of its own says what every item must hold in the end.
    """
    return Measured(lines, how, (_table(our_harm, its_harm),))


def _table(ours: _Harmed, theirs: _Harmed) -> str:
    rows = [
        "| under the harness | units sent | ours: lost, doubled | the recipe: lost, doubled |",
        "| --- | --- | --- | --- |",
    ]
    for title, mine in ours.by_case.items():
        other = theirs.by_case[title]
        rows.append(
            f"| {title} | {mine.owed:,} | {mine.lost:,}, {mine.doubled:,} "
            f"| {other.lost:,}, {other.doubled:,} |"
        )
    rows.append(
        f"| webhooks sent again | | {ours.sent.attempts - ours.sent.messages:,} "
        f"| {theirs.sent.attempts - theirs.sent.messages:,} |"
    )
    rows.append(f"| webhooks given up | | {ours.sent.given_up:,} | {theirs.sent.given_up:,} |")
    rows.append(f"| calls to Stripe | | {ours.calls:,} | {theirs.calls:,} |")
    return "\n".join(rows)
