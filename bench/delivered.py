"""From webhooks to usage records, once through: what several figures measure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.arithmetic import per_second
from bench.load import Plan, Result
from bench.processes import cpu_seconds, family_cpu_seconds
from bench.sending import loading
from bench.stage import Stage
from bench.traffic import Message, units

_ANSWERS = """
    select extract(epoch from finished_at)::float8 as at from attempts where id > $1 order by 1
"""


@dataclass(frozen=True, slots=True)
class Delivered:
    """How it went. Seconds from the first webhook's first byte to the last answer of Stripe.

    `steady` is windows a second between the tenth and the ninetieth percent of the answers. `cpu`
    is seconds of processor time by who used them: bridge, postgres, sandbox, sender.
    """

    windows: int
    seconds: float
    steady: float
    load: Result
    cpu: dict[str, float]

    @property
    def rate(self) -> float:
        """Windows a second, from end to end."""
        return per_second(self.windows, self.seconds)

    def each(self, who: str) -> float:
        """Seconds of processor time for a window."""
        return self.cpu[who] / self.windows


async def deliver(
    stage: Stage,
    messages: Sequence[Message],
    *,
    profile: bool = False,
    before: Mapping[str, int] | None = None,
    seconds: float = 300.0,
    **settings: str,
) -> Delivered:
    """Send messages to one `serve` that books and sends, until each of their windows is reported.

    `before` is what the sandbox holds of each subject already. Raises FigureFailed where it takes
    longer than `seconds`, or where Stripe does not hold every unit in the end.
    """
    service = stage.serve(
        with_worker=True,
        profile=stage.folder / "profile.json" if profile else None,
        **{"DISPATCH_LINGER": "0", **settings},
    )
    windows = sum(len(message.windows) for message in messages)
    postmaster = stage.bench.server.embedded.pid
    async with stage.database.connect() as connection:
        newest = await connection.fetchval("select coalesce(max(id), 0) from attempts")
    plan = Plan(service.url, stage.secret, "", count=len(messages))
    with loading(messages, plan, stage.folder) as load:
        used = _used(stage, service.process.pid, postmaster)
        result = load.run()
        await stage.until_done(service.process, seconds=seconds)
        now = _used(stage, service.process.pid, postmaster)
    service.process.stop()
    stage.check(units(messages) + Counter(before or {}))
    async with stage.database.connect() as connection:
        rows = await connection.fetch(_ANSWERS, newest)
    answers = [row["at"] for row in rows]
    first, last = len(answers) // 10, len(answers) * 9 // 10
    return Delivered(
        windows,
        answers[-1] - result.began,
        per_second(last - first, answers[last] - answers[first]),
        result,
        {who: now[who] - used[who] for who in now} | {"sender": result.cpu},
    )


def _used(stage: Stage, bridge: int, postmaster: int) -> dict[str, float]:
    return {
        "bridge": cpu_seconds([bridge]),
        "postgres": family_cpu_seconds(postmaster),
        "sandbox": cpu_seconds([stage.sandbox.pid]),
    }
