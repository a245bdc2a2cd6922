"""What is to be explained: an item in a period, or a subject on a day. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from typing import Final

from app.errors import Fault, InvalidRequest

# What people and programs name a moment by. Beyond these years it is a slip (milliseconds).
EARLIEST: Final = datetime(1970, 1, 1, tzinfo=UTC)
LATEST: Final = datetime(9000, 1, 1, tzinfo=UTC)
_SECONDS = re.compile(r"[0-9]{1,12}", re.ASCII)
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
SAME_NAMES: Final[Mapping[str, str]] = {}


@dataclass(frozen=True, slots=True)
class ItemSelection:
    """An item in the billing period that a moment lies in; records behind `after` (Unix s)."""

    item: str
    at: datetime
    after: int | None = None


@dataclass(frozen=True, slots=True)
class SubjectSelection:
    """A subject on a day of UTC."""

    subject: str
    day: date


Selection = ItemSelection | SubjectSelection


def select(
    *,
    item: str | None,
    period: str | None,
    subject: str | None,
    at: str | None,
    after: int | None = None,
    names: Mapping[str, str] = SAME_NAMES,
) -> Selection:
    """The selection that was asked for: item and period, or subject and day.

    `names`: what the caller's parameters are called, for the faults of InvalidRequest.
    """

    def named(parameter: str) -> str:
        return names.get(parameter, parameter)

    def refuse(parameter: str, message: str) -> InvalidRequest:
        return InvalidRequest(faults=(Fault(named(parameter), message),))

    def parse(parameter: str, text: str) -> datetime:
        try:
            return parse_moment(text)
        except ValueError as error:
            raise refuse(parameter, str(error)) from None

    if item is not None and subject is None:
        if period is None:
            raise refuse("period", f"is missing: {named('item')} goes with it")
        if at is not None:
            raise refuse("at", f"goes with {named('subject')}")
        return ItemSelection(item, parse("period", period), after)
    if subject is not None and item is None:
        if at is None:
            raise refuse("at", f"is missing: {named('subject')} goes with it")
        if period is not None or after is not None:
            raise refuse("period" if period is not None else "after", f"goes with {named('item')}")
        return SubjectSelection(subject, parse("at", at).date())
    raise refuse(
        "item",
        f"give {named('item')} and {named('period')}, or {named('subject')} and {named('at')}",
    )


def parse_moment(text: str) -> datetime:
    """Unix seconds, an RFC 3339 time, or a date (its midnight), as a time in UTC.

    Raises ValueError with words for the one who typed it.
    """
    try:
        if _SECONDS.fullmatch(text):
            moment = datetime.fromtimestamp(int(text), UTC)
        elif _DATE.fullmatch(text):
            moment = datetime.combine(date.fromisoformat(text), time(), UTC)
        else:
            moment = datetime.fromisoformat(text)
            if moment.tzinfo is None:
                raise ValueError("needs an offset, like 2026-03-15T12:00:00Z")
            moment = moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        if str(error).startswith("needs an offset"):
            raise
        raise ValueError(
            "is neither a date (2026-03-15), nor a time (2026-03-15T12:00:00Z), nor Unix seconds"
        ) from None
    if not EARLIEST <= moment < LATEST:
        raise ValueError("is out of range")
    return moment
