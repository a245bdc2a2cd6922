"""Meters and the events that they measure, sorted by time for each meter and subject."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_FOREVER = 2**63


def microseconds(instant: datetime) -> int:
    """Microseconds since 1970 of an aware time."""
    return (instant - EPOCH) // _MICROSECOND


def instant(since: int) -> datetime:
    """The UTC time of microseconds since 1970."""
    return EPOCH + since * _MICROSECOND


@dataclass(frozen=True, slots=True)
class Meter:
    """A meter; `group_by` are the names that its events can be split by."""

    slug: str
    aggregation: str = "SUM"
    group_by: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Event:
    """One measured fact. Times in microseconds since 1970; OpenMeter knows it from `arrived`."""

    at: int
    arrived: int
    value: Decimal
    number: float
    group: Mapping[str, str]


@dataclass(slots=True)
class Series:
    """The events of one meter and subject, by time."""

    times: list[int] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    def add(self, event: Event) -> None:
        """Put an event at its place; of the same time, the later added is the later one."""
        place = (
            len(self.times)
            if not self.times or self.times[-1] <= event.at
            else bisect_right(self.times, event.at)
        )
        self.times.insert(place, event.at)
        self.events.insert(place, event)

    def between(self, start: int, end: int) -> list[Event]:
        """The events of [start, end)."""
        return self.events[bisect_left(self.times, start) : bisect_left(self.times, end)]


class EventStore:
    """All events. Adding in the order of time costs next to nothing."""

    def __init__(self) -> None:
        self._series: dict[str, dict[str, Series]] = {}

    def add(self, meter: str, subject: str, event: Event) -> None:
        """Take an event in."""
        subjects = self._series.setdefault(meter, {})
        series = subjects.get(subject)
        if series is None:
            series = subjects[subject] = Series()
        series.add(event)

    def subjects(self, meter: str) -> list[str]:
        """Who has events of a meter."""
        return list(self._series.get(meter, ()))

    def known(
        self, meter: str, subject: str, start: int, end: int, *, now: int = _FOREVER
    ) -> Iterator[Event]:
        """The events of [start, end) that have arrived by now, by time."""
        series = self._series.get(meter, {}).get(subject)
        if series is not None:
            for event in series.between(start, end):
                if event.arrived <= now:
                    yield event
