"""Questions to OpenMeter's API as paths and query strings.

Pure. Everything that could be misread on the way is refused here with a `ValueError`, before
anything is sent.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from urllib.parse import quote, quote_plus, urlencode

from app.openmeter.api_answers import WindowSize

LONGEST_ID = 256

WINDOW_SIZES: Mapping[WindowSize, timedelta] = {
    "MINUTE": timedelta(minutes=1),
    "HOUR": timedelta(hours=1),
    "DAY": timedelta(days=1),
}
_METER = re.compile(r"[A-Za-z0-9_]{1,64}", re.ASCII)  # a slug or a ULID


@dataclass(frozen=True, slots=True)
class MeterQuery:
    """One question for values: whole seconds of UTC, `from_` inclusive, `to` exclusive."""

    meter: str
    from_: datetime
    to: datetime
    subjects: tuple[str, ...]
    group_by: tuple[str, ...] = ()
    filter_group_by: Mapping[str, str] = field(default_factory=dict)
    window_size: WindowSize | None = None

    def __post_init__(self) -> None:
        if whole_second(self.from_) >= whole_second(self.to):
            raise ValueError("from must be before to")
        if not self.subjects or not all(self.subjects):
            raise ValueError("a query needs at least one subject, and none may be empty")
        for name in (*self.group_by, *self.filter_group_by):
            if not name or name == "subject" or "[" in name or "]" in name:
                raise ValueError("a group's name must not be empty, subject, or contain brackets")
        if self.window_size is not None and self.window_size not in WINDOW_SIZES:
            raise ValueError("the window size must be MINUTE, HOUR or DAY")

    @property
    def path(self) -> str:
        """Where to ask."""
        return f"{meter_path(self.meter)}/query"

    @property
    def told_groups(self) -> tuple[str, ...]:
        """The groups that rows must tell: those asked for, and those filtered by, to check them."""
        return tuple(dict.fromkeys((*self.group_by, *self.filter_group_by)))

    def query_string(self) -> str:
        """The question as parameters.

        Always by subject: OpenMeter refuses several subjects otherwise, and some of its versions
        answer an ungrouped question about nothing with a row of zero.
        """
        pairs = [
            *_bounds(self.from_, self.to),
            *(("subject", subject) for subject in self.subjects),
            ("groupBy", "subject"),
            *(("groupBy", name) for name in self.told_groups),
            *((f"filterGroupBy[{name}]", wanted) for name, wanted in self.filter_group_by.items()),
        ]
        if self.window_size is not None:
            pairs.append(("windowSize", self.window_size))
        return urlencode(pairs, safe="[]", quote_via=quote_plus)


def subjects_query(from_: datetime, to: datetime) -> str:
    """The bounds alone."""
    if whole_second(from_) >= whole_second(to):
        raise ValueError("from must be before to")
    return urlencode(_bounds(from_, to))


def meter_path(meter: str) -> str:
    """The path of a meter by slug or id."""
    if not _METER.fullmatch(meter):
        raise ValueError("the meter is neither a slug nor an id")
    return f"/api/v1/meters/{meter}"


def customer_path(customer: str) -> str:
    """The path of a customer by id or key.

    A key is free text, but `..`, a slash that some hop decodes, or a control character must never
    reach another endpoint.
    """
    if (
        not customer
        or len(customer) > LONGEST_ID
        or not customer.isprintable()
        or customer != customer.strip()
        or "/" in customer
        or "\\" in customer
        or set(customer) == {"."}
    ):
        raise ValueError("the customer's id or key cannot be part of a path")
    return f"/api/v1/customers/{quote(customer, safe='')}"


def whole_second(instant: datetime) -> datetime:
    """The instant in UTC, if OpenMeter can tell it: it cuts bounds to whole seconds in silence."""
    if instant.tzinfo is None:
        raise ValueError("a bound of a query must have a time zone")
    if instant.microsecond:
        raise ValueError("a bound of a query must be a whole second")
    return instant.astimezone(UTC)


def _bounds(from_: datetime, to: datetime) -> list[tuple[str, str]]:
    return [
        (name, whole_second(instant).strftime("%Y-%m-%dT%H:%M:%SZ"))
        for name, instant in (("from", from_), ("to", to))
    ]
