"""OpenMeter as tests see it from behind: events, customers, faults, and who asked for what."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from tests.openmeter_side.answers import Answer, Fault, FaultKind
from tests.openmeter_side.customers import CustomerEntry
from tests.openmeter_side.events import Event, EventStore, Meter, microseconds
from tests.openmeter_side.querying import Question, Row, answer_query

_FOREVER = 2**63


@dataclass(frozen=True, slots=True)
class Webhook:
    """One `report.meter` message: of one subject, of one run."""

    subject: str
    body: bytes
    rows: tuple[Row, ...]


class OpenMeterSide:
    """The state of the stand-in. With `now`, nothing is known that has not arrived by then."""

    def __init__(
        self, *, api_key: str | None = None, now: Callable[[], datetime] | None = None
    ) -> None:
        self.now = now
        self.api_key: str | None = None
        self.start_over()
        self.api_key = api_key

    def start_over(self) -> None:
        """Forget everything; no key is asked for."""
        self.api_key = None
        self.meters: dict[str, Meter] = {}
        self.customers: dict[str, CustomerEntry] = {}
        self.requests: list[tuple[str, list[tuple[str, str]]]] = []
        self.page_limit = 1000
        self.plain_lists = False  # as versions before paging
        self._events = EventStore()
        self._faults: list[Fault] = []

    def meter(self, slug: str, aggregation: str = "SUM", *, group_by: Sequence[str] = ()) -> None:
        """Make a meter."""
        self.meters[slug] = Meter(slug, aggregation, tuple(group_by))

    def event(
        self,
        meter: str,
        subject: str,
        at: datetime,
        value: Decimal | int = 1,
        *,
        group: Mapping[str, str] | None = None,
        arrived: datetime | None = None,
    ) -> None:
        """Measure something; it arrives when it happens, unless told otherwise."""
        exact = Decimal(value)
        when = microseconds(at)
        self._events.add(
            meter,
            subject,
            Event(
                at=when,
                arrived=when if arrived is None else microseconds(arrived),
                value=exact,
                number=float(exact),
                group=group or {},
            ),
        )

    def customer(
        self,
        identifier: str,
        *,
        key: str | None = None,
        subjects: Sequence[str] = (),
        stripe: str | None = None,
        deleted: bool = False,
    ) -> None:
        """Make a customer."""
        self.customers[identifier] = CustomerEntry(
            identifier, key, tuple(subjects), stripe, deleted
        )

    def fail(
        self,
        answer: Answer | None = None,
        *,
        kind: FaultKind = "answer",
        path: str = "",
        times: int | None = None,
    ) -> Fault:
        """From now on, this happens to requests whose path holds `path`."""
        fault = Fault(kind=kind, answer=answer, path=path, times=times)
        self._faults.append(fault)
        return fault

    def heal(self) -> None:
        """Take all faults away."""
        self._faults.clear()

    def fault_for(self, path: str) -> Fault | None:
        """The fault that this request meets."""
        return next((fault for fault in self._faults if fault.meets(path)), None)

    def query(self, meter: str, asked: Question) -> list[Row]:
        """What the query API answers, as values."""
        return answer_query(self._events, self.meters[meter], asked, now=self._now())

    def subjects(self, meter: str, from_: datetime, to: datetime) -> list[str]:
        """Who has usage in [from_, to)."""
        rows = self.query(meter, Question(from_, to))
        return sorted({row.subject for row in rows if row.subject is not None})

    def windows(
        self,
        meter: str,
        size: str,
        from_: datetime,
        to: datetime,
        group_by: Sequence[str] = (),
    ) -> list[Row]:
        """The windows (`MINUTE`, `HOUR`, `DAY`) that a usage sync reports of [from_, to).

        Of every subject; the same numbers that the query API answers, as known now.
        """
        asked = Question(from_, to, group_by=("subject", *group_by), window_size=size)
        return self.query(meter, asked)

    def webhooks(
        self,
        meter: str,
        size: str,
        from_: datetime,
        to: datetime,
        group_by: Sequence[str] = (),
    ) -> Iterator[Webhook]:
        """The messages of one run: one for each subject that has usage, by subject."""
        by_subject: dict[str, list[Row]] = {}
        for row in self.windows(meter, size, from_, to, group_by):
            by_subject.setdefault(str(row.subject), []).append(row)
        for subject, rows in sorted(by_subject.items()):
            message = self._message(meter, subject, rows, from_, to, group_by)
            yield Webhook(subject, json.dumps(message).encode(), tuple(rows))

    def _message(
        self,
        meter: str,
        subject: str,
        rows: Sequence[Row],
        from_: datetime,
        to: datetime,
        group_by: Sequence[str],
    ) -> dict[str, Any]:
        bounds = {"from": from_.isoformat(), "to": to.isoformat()}
        return {
            "type": "report.meter",
            "report": {"slug": f"{meter}_sync"},
            "usage": [row.as_json() for row in rows],
            "query": {**bounds, "subject": subject, "groupBy": list(group_by)},
            "meter": {
                "id": "01H98E5HHJ8K0AYXQKM3EKAVYG",
                "slug": meter,
                "aggregation": self.meters[meter].aggregation,
                "eventType": "usage",
                "valueProperty": "$.value",
                "groupBy": {name: f"$.{name}" for name in self.meters[meter].group_by},
            },
        }

    def _now(self) -> int:
        return microseconds(self.now()) if self.now is not None else _FOREVER
