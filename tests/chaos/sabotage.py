"""Spoiled evidence: a harness that cannot fail proves nothing.

Each takes what a run found and falsifies one thing, as a bridge with a defect would leave it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from tests.chaos.account import Window
from tests.chaos.books import Call
from tests.chaos.verdict import Fate


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a run is judged by: Stripe's executed calls, and the program's windows."""

    calls: Sequence[Call]
    fates: Mapping[Window, Fate]


def lose(found: Evidence) -> Evidence:
    """One record's calls never reached Stripe."""
    spoiled = _standing(found.calls)
    place = (spoiled.item, spoiled.timestamp)
    return replace(found, calls=[c for c in found.calls if (c.item, c.timestamp) != place])


def double(found: Evidence) -> Evidence:
    """One call was executed a second time, a second later."""
    spoiled = _standing(found.calls)
    again = replace(spoiled, timestamp=spoiled.timestamp + 1, action="increment", key=None)
    return replace(found, calls=[*found.calls, again])


def forget(found: Evidence) -> Evidence:
    """One accepted window is nowhere."""
    first = min(found.fates)
    return replace(found, fates={w: fate for w, fate in found.fates.items() if w != first})


def stale(found: Evidence) -> Evidence:
    """One window has the value of an older message."""
    first = min(found.fates)
    older = found.fates[first]._replace(value=found.fates[first].value + 1)
    return replace(found, fates={**found.fates, first: older})


SABOTAGE: dict[str, Callable[[Evidence], Evidence]] = {
    "lose": lose,
    "double": double,
    "forget": forget,
    "stale": stale,
}


def _standing(calls: Sequence[Call]) -> Call:
    """The newest call by which units stand at an item that adds up."""
    newest = {(call.item, call.timestamp): call for call in calls}
    return next(c for c in reversed(newest.values()) if c.quantity > 0 and c.item.endswith("_sum"))
