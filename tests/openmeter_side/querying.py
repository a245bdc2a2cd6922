"""Values by window, subject and group, as OpenMeter's query computes them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

from tests.openmeter_side.aggregating import AGGREGATIONS, json_number
from tests.openmeter_side.events import Event, EventStore, Meter, instant, microseconds

WINDOWS = {"MINUTE": 60 * 10**6, "HOUR": 3600 * 10**6, "DAY": 86_400 * 10**6}
_SECOND = 10**6


@dataclass(frozen=True, slots=True)
class Question:
    """What a query asks. No `subjects`: of everybody. Rows tell a subject only where grouped."""

    from_: datetime
    to: datetime
    subjects: tuple[str, ...] = ()
    group_by: tuple[str, ...] = ("subject",)
    filter_group_by: Mapping[str, str] = field(default_factory=dict)
    window_size: str | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One value; a group that the events do not tell is `None`."""

    value: int | float
    window_start: datetime
    window_end: datetime
    subject: str | None
    group_by: Mapping[str, str | None]

    @property
    def exact(self) -> Decimal:
        """The value as it reads in JSON."""
        return Decimal(repr(self.value))

    def as_json(self) -> dict[str, Any]:
        """The row as it travels."""
        return {
            "value": self.value,
            "windowStart": _rfc3339(self.window_start),
            "windowEnd": _rfc3339(self.window_end),
            "subject": self.subject,
            "groupBy": dict(self.group_by),
        }


def answer_query(store: EventStore, meter: Meter, asked: Question, *, now: int) -> list[Row]:
    """The rows, by window and in no further order that one could rely on.

    Windows without events have no row. A window that the bounds cut has its full bounds, but only
    the part inside them. Bounds are cut to whole seconds.
    """
    start, end = (_whole_seconds(bound) for bound in (asked.from_, asked.to))
    size = WINDOWS[asked.window_size] if asked.window_size else None
    names = [name for name in asked.group_by if name != "subject"]
    by_subject = "subject" in asked.group_by
    found: dict[tuple[Any, ...], list[Event]] = {}
    for subject in asked.subjects or store.subjects(meter.slug):
        for event in store.known(meter.slug, subject, start, end, now=now):
            if any(event.group.get(n, "") != want for n, want in asked.filter_group_by.items()):
                continue
            window = event.at - event.at % size if size else None
            group = tuple(event.group.get(name) for name in names)
            found.setdefault((window, subject if by_subject else None, group), []).append(event)
    aggregate = AGGREGATIONS[meter.aggregation]
    rows = [
        Row(
            value=json_number(aggregate(events if by_subject else _by_time(events))),
            window_start=asked.from_ if window is None else instant(window),
            window_end=asked.to if window is None or size is None else instant(window + size),
            subject=subject,
            group_by=dict(zip(names, group, strict=True)),
        )
        for (window, subject, group), events in reversed(found.items())
    ]
    return sorted(rows, key=lambda row: row.window_start)


def _by_time(events: list[Event]) -> list[Event]:
    return sorted(events, key=lambda event: event.at)


def _whole_seconds(bound: datetime) -> int:
    return microseconds(bound) // _SECOND * _SECOND


def _rfc3339(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")
