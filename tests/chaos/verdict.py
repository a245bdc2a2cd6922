"""The comparison of the two sides: units lost, doubled or early, windows unaccounted for."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import accumulate
from typing import NamedTuple

from tests.chaos.account import Account, Owed, Window
from tests.chaos.books import Call, executed_twice

# Beyond these the report says how many more there are.
MOST_NAMED = 20


class Fate(NamedTuple):
    """What the program says became of a window."""

    state: str
    reason: str | None
    value: Decimal


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a run came to. `findings` say what is wrong, in words; none: nothing is."""

    windows: int
    units: int
    at_stripe: int
    lost: int
    doubled: int
    early: int
    unaccounted: int
    parked: dict[str, int]
    calls: int
    twice: int
    findings: tuple[str, ...]

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings


def compare(
    account: Account,
    due: Owed,
    stands: Mapping[str, Mapping[int, int]],
    calls: Sequence[Call],
    fates: Mapping[Window, Fate],
) -> Verdict:
    """Compare what is owed with what stands, and what was told with what became of it.

    What is late may be billed in a later period, never in an earlier one: so up to the end of each
    period at most what was used up to then, and in the end exactly all of it.
    """
    findings: list[str] = []
    lost = doubled = early = 0
    for item in sorted(due.units.keys() | stands.keys()):
        owes = {period.start: units for period, units in due.units.get(item, {}).items()}
        has = stands.get(item, {})
        difference = sum(has.values()) - sum(owes.values())
        if difference:
            findings.append(f"{item}: {sum(owes.values())} owed, {sum(has.values())} at Stripe")
        lost += max(-difference, 0)
        doubled += max(difference, 0)
        starts = sorted(owes.keys() | has.keys())
        ahead = accumulate(has.get(start, 0) - owes.get(start, 0) for start in starts[:-1])
        too_early = max([0, *ahead])
        if too_early:
            findings.append(f"{item}: {too_early} units in an earlier period than their windows")
        early += too_early
    wrong = [
        f"{window}: {found}"
        for window, found in ((w, _misplaced(w, account, due, fates)) for w in account.told)
        if found
    ]
    wrong += [f"{window}: nobody sent it" for window in fates.keys() - account.told.keys()]
    twice = executed_twice(calls)
    if twice:
        findings.append(f"{twice} calls were executed twice under one key")
    more = len(wrong) - MOST_NAMED
    findings += [*wrong[:MOST_NAMED], *([f"and {more} more windows"] if more > 0 else [])]
    return Verdict(
        windows=len(account.told),
        units=sum(sum(by_period.values()) for by_period in due.units.values()),
        at_stripe=sum(sum(by_period.values()) for by_period in stands.values()),
        lost=lost,
        doubled=doubled,
        early=early,
        unaccounted=len(wrong),
        parked=dict(Counter(due.parked.values())),
        calls=len(calls),
        twice=twice,
        findings=tuple(findings),
    )


def _misplaced(
    window: Window, account: Account, due: Owed, fates: Mapping[Window, Fate]
) -> str | None:
    """What is wrong with a window, if anything."""
    fate = fates.get(window)
    if fate is None:
        return "accepted, and not there"
    if fate.value != account.value(window):
        return f"{fate.value} stands, the newest message said {account.value(window)}"
    reason = due.parked.get(window)
    if reason is None:
        return None if fate.state == "booked" else f"{fate.state} ({fate.reason}), not booked"
    expected = fate.state == "parked" and fate.reason == reason
    return None if expected else f"{fate.state} ({fate.reason}), not parked as {reason}"
