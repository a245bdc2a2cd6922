"""The seven aggregations in float64, as ClickHouse computes them: noise and all."""

from collections.abc import Callable, Mapping, Sequence

from tests.openmeter_side.events import Event


def _sum(events: Sequence[Event]) -> float:
    total = 0.0
    for event in events:  # one by one: sum() of Python 3.12 would take the noise away
        total += event.number
    return total


AGGREGATIONS: Mapping[str, Callable[[Sequence[Event]], float]] = {
    "SUM": _sum,
    "COUNT": len,
    "MAX": lambda events: max(event.number for event in events),
    "MIN": lambda events: min(event.number for event in events),
    "LATEST": lambda events: events[-1].number,
    "AVG": lambda events: _sum(events) / len(events),
    "UNIQUE_COUNT": lambda events: len({event.value for event in events}),
}


def json_number(value: float) -> int | float:
    """The number as Go writes a float64: whole ones without a point."""
    return int(value) if float(value).is_integer() and abs(value) < 1e21 else value
