"""The usage report: a signed body, read once and strictly, as frozen values.

Pure: bytes in, values out. Raises InvalidMessage or UnknownType, and nothing else, on any bytes.
"""

import re
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from pydantic import ValidationError

from app.openmeter.payload import (
    MAX_FAULTS,
    MAX_WINDOWS,
    MessagePayload,
    UsagePayload,
    payload_faults,
)
from app.openmeter.strict_json import NotStrictJson, read_json, refuse_constants

REPORT_TYPE = "report.meter"
# The other messages that OpenMeter sends to the same URL.
_OTHER_TYPES = re.compile(r"(?:entitlements|invoice)\.[a-z0-9_.]{1,64}", re.ASCII)
_WHOLE_BODY = "$"

PathFault = tuple[str, str]
"""(path, message): `("usage[3].value", "is missing")`. `$` is the whole body."""


class InvalidMessage(Exception):
    """The body is not a message that can be read; `faults` say where, at most twenty."""

    def __init__(self, faults: tuple[PathFault, ...]) -> None:
        super().__init__("the message is not valid")
        self.faults = faults


class UnknownType(Exception):
    """A message of a type that OpenMeter never announced."""

    def __init__(self) -> None:
        super().__init__("unknown event type")


@dataclass(frozen=True, slots=True)
class OtherMessage:
    """A known message that is none of ours: `entitlements.*`, `invoice.*`."""

    type: str


@dataclass(frozen=True, slots=True)
class Meter:
    """The meter that a report is of."""

    slug: str
    id: str | None
    aggregation: str
    """As sent, in capitals: SUM, COUNT, …; UNKNOWN where it was absent."""


@dataclass(frozen=True, slots=True)
class ReportedWindow:
    """One fact: the value of (meter, subject, group) in [window_start, window_end)."""

    subject: str
    group_by: tuple[tuple[str, str], ...]
    """(name, value), sorted by name; an absent value is the empty string."""
    value: Decimal
    """As sent, digit by digit."""
    window_start: datetime
    window_end: datetime
    """Both aware, UTC, microseconds."""
    subject_contradicts: bool
    """The row names another subject than the one the query was for: suspect."""


@dataclass(frozen=True, slots=True)
class UsageReport:
    """One `report.meter` message. Each (subject, group, window) stands in it once."""

    report_slug: str | None
    meter: Meter
    windows: tuple[ReportedWindow, ...]


_Groups = tuple[tuple[str, str], ...]
_Facts = dict[tuple[str, _Groups, datetime, datetime], tuple[int, UsagePayload]]
"""(subject, groups, start, end) -> its position in `usage`, and what stands there."""


def is_report(body: bytes) -> bool:
    """Whether `parse_message` finds a report in a raw body, and none of the other messages.

    Raises as that does; it only spares making the windows.
    """
    return not isinstance(_facts_in(body), OtherMessage)


def parse_message(body: bytes) -> UsageReport | OtherMessage:
    """The message in a raw body. Raises InvalidMessage or UnknownType."""
    found = _facts_in(body)
    if isinstance(found, OtherMessage):
        return found
    payload, facts = found
    asked = payload.query.subject if payload.query else None
    return UsageReport(
        report_slug=payload.report.slug if payload.report else None,
        meter=Meter(
            slug=payload.meter.slug,
            id=payload.meter.id,
            aggregation=(payload.meter.aggregation or "UNKNOWN").upper(),
        ),
        windows=tuple(
            ReportedWindow(
                subject,
                group_by,
                row.value,
                start,
                end,
                subject_contradicts=bool(row.subject and asked and row.subject != asked),
            )
            for (subject, group_by, start, end), (_, row) in facts.items()
        ),
    )


def _facts_in(body: bytes) -> tuple[MessagePayload, _Facts] | OtherMessage:
    try:
        message = read_json(body)
    except NotStrictJson as error:
        raise _whole(str(error)) from None
    if not isinstance(message, dict):
        raise _whole("must be an object")
    kind = message.get("type")
    if kind != REPORT_TYPE:
        return _other(kind, present="type" in message)
    _bound_windows(message)
    try:
        payload = MessagePayload.model_validate(message)
    except ValidationError as error:
        raise InvalidMessage(
            payload_faults(error.errors(include_url=False, include_context=False))
        ) from None
    facts = _facts(payload)
    try:
        refuse_constants(body)
    except NotStrictJson as error:
        raise _whole(str(error)) from None
    return payload, facts


def _bound_windows(message: dict[str, object]) -> None:
    """Before the models look: they would list the faults of 300,000 entries for 5 seconds."""
    usage = message.get("usage")
    if isinstance(usage, list) and len(usage) > MAX_WINDOWS:
        raise InvalidMessage((("usage", f"has more than {MAX_WINDOWS} entries"),))


def _whole(message: str) -> InvalidMessage:
    return InvalidMessage(((_WHOLE_BODY, message),))


def _other(kind: object, *, present: bool) -> OtherMessage:
    if not isinstance(kind, str):
        raise InvalidMessage((("type", "must be a string" if present else "is missing"),))
    if not _OTHER_TYPES.fullmatch(kind):
        raise UnknownType
    return OtherMessage(kind)


def _facts(payload: MessagePayload) -> _Facts:
    """Each fact where it stands first. Raises InvalidMessage."""
    asked = payload.query.subject if payload.query else None
    faults: list[PathFault] = []
    facts: _Facts = {}
    for position, row in enumerate(payload.usage):
        if len(faults) >= MAX_FAULTS:
            break
        subject = row.subject or asked
        if not subject:
            faults.append((f"usage[{position}].subject", "is missing here and in query"))
            continue
        if row.window_end <= row.window_start:
            faults.append((f"usage[{position}].windowEnd", "must be after windowStart"))
            continue
        groups = row.group_by
        group_by = tuple(sorted((name, groups[name] or "") for name in groups)) if groups else ()
        key = (subject, group_by, row.window_start, row.window_end)
        earlier, standing = facts.setdefault(key, (position, row))
        # Which of two values is meant cannot be known; one of them would bill wrongly.
        if standing.value != row.value:
            faults.append((f"usage[{position}]", f"contradicts usage[{earlier}]: another value"))
    if faults:
        raise InvalidMessage(tuple(faults))
    return facts
