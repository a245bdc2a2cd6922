"""What a run is judged by, and what it came to."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.chaos.account import Account, owed
from tests.chaos.books import standing
from tests.chaos.injector import Lengths
from tests.chaos.launching import Launcher, executed
from tests.chaos.observing import Observer
from tests.chaos.plant import Plant
from tests.chaos.recovery import Recoveries
from tests.chaos.sabotage import SABOTAGE, Evidence
from tests.chaos.sender import Sender
from tests.chaos.verdict import Verdict, compare
from tests.chaos.world import World

NO_DATABASE = 2
"""The exit status of a process that could not begin, as without a database."""


@dataclass(frozen=True, slots=True)
class Options:
    """What is run. `seconds`: of faults and traffic; the rest of `within` is for the end.

    `least`: of some kinds at least so many. `database`: settings of PostgreSQL beside those that
    the program gives its own. `sabotage` falsifies the evidence in one way before it is judged.
    """

    seed: int = 1
    faults: int = 500
    windows: int = 100_000
    seconds: float = 700.0
    within: float = 1_200.0
    lengths: Lengths = field(default_factory=Lengths)
    least: Mapping[str, int] = field(default_factory=dict)
    database: Mapping[str, str] = field(default_factory=dict)
    sabotage: str | None = None
    launcher: Launcher = executed


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to. `trouble`: what is wrong beside the comparison, in words."""

    options: Options
    verdict: Verdict
    recoveries: Recoveries
    trouble: tuple[str, ...]
    messages: int
    sent: dict[str, int]
    answers: dict[int, int]
    starts: int
    moved: int
    seconds: float
    postgresql: str

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong."""
        return self.verdict.clean and not self.trouble


async def verdict_of(
    options: Options, world: World, account: Account, plant: Plant, observer: Observer
) -> tuple[Verdict, list[str]]:
    """The comparison, and in what the two sides contradict themselves."""
    found = Evidence(await plant.stripe.calls(), await observer.fates())
    stands = standing(found.calls, world.items)
    trouble = []
    if stands != await plant.stripe.totals():
        trouble.append("the sandbox's totals are not what its executed calls come to")
    due = owed(account, plant.mappings, world.items, await plant.stripe.periods())
    if options.sabotage is not None:
        found = SABOTAGE[options.sabotage](found)
        stands = standing(found.calls, world.items)
    verdict = compare(account, due, stands, found.calls, found.fates)
    summary = await plant.summary()
    shown = {} if summary is None else {e["reason"]: e["count"] for e in summary["parked"]}
    if shown != verdict.parked:
        trouble.append(f"the API shows {shown} as parked, the account has {verdict.parked}")
    return verdict, trouble


def troubles(
    left: Mapping[str, int], plant: Plant, sender: Sender, recoveries: Recoveries
) -> list[str]:
    """What is wrong beside the comparison."""
    ended = [(r.name, status) for r in plant.replicas for status in r.gave_up]
    return [
        *(f"left at the end: {count} {what}" for what, count in left.items()),
        *(f"{count} x {what}" for what, count in sender.unexpected.items()),
        *(f"{name} ended by itself: {status}" for name, status in ended if status != NO_DATABASE),
        *recoveries.never,
    ]
