"""The `report.meter` payload as it travels: models, bounds, and what is said of each fault.

Unknown members are tolerated, because OpenMeter adds some now and then. Faults are told by
constant texts; the input never comes back.
"""

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Annotated

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    PlainValidator,
    StringConstraints,
)
from pydantic.alias_generators import to_camel
from pydantic_core import CoreSchema, ErrorDetails, PydanticCustomError, core_schema

from app.openmeter.strict_json import UNUSABLE, number

MAX_WINDOWS = 10_000
MAX_FAULTS = 20
MAX_GROUPS = 64

_JSON_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?", re.ASCII)
_RFC3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?"
    r"(?:[Zz]|[+-][0-9]{2}:[0-9]{2})",
    re.ASCII,
)
# Go's zero time is the year 1: a sender that writes it means "no time", which is no window.
_FIRST_YEAR, _LAST_YEAR = 1970, 2999


def _value(raw: object) -> Decimal:
    if isinstance(raw, str):
        # Decimal() alone would also take "NaN", " 5 ", "1_000" and Arabic digits.
        raw = number(raw) if _JSON_NUMBER.fullmatch(raw) else None
    if not isinstance(raw, Decimal):  # a bool is an int elsewhere; here it is no number
        raise PydanticCustomError("usage_value_type", "is not a number")
    if raw is UNUSABLE:
        raise PydanticCustomError("usage_value_range", "is out of range")
    return raw


# The windows of a report share their bounds (one per group), and so do those of many reports:
# each text is read once. Errors are not kept.
@lru_cache(maxsize=4096)
def _rfc3339(text: str) -> datetime:
    if not _RFC3339.fullmatch(text):
        raise PydanticCustomError("instant_type", "is not a time")
    try:
        found = datetime.fromisoformat(text.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        raise PydanticCustomError("instant_type", "is not a time") from None
    if not _FIRST_YEAR <= found.year <= _LAST_YEAR:
        raise PydanticCustomError("instant_range", "is out of range")
    return found


class _Instant:
    """Validates a time without a function of ours between Pydantic and the cache."""

    @staticmethod
    def __get_pydantic_core_schema__(_: object, __: GetCoreSchemaHandler) -> CoreSchema:
        text = core_schema.custom_error_schema(
            core_schema.str_schema(strict=True),
            custom_error_type="instant_type",
            custom_error_message="is not a time",
        )
        return core_schema.no_info_after_validator_function(_rfc3339, text)


def _text(max_length: int) -> StringConstraints:
    # PostgreSQL stores no NUL. (Lone surrogates are refused by Pydantic itself.)
    return StringConstraints(max_length=max_length, pattern=r"^[^\x00]*\z")


Value = Annotated[Decimal, PlainValidator(_value)]
Instant = Annotated[datetime, _Instant]
Subject = Annotated[str, _text(512)]
Name = Annotated[str, _text(256)]
Slug = Annotated[str, StringConstraints(max_length=64, pattern=r"^[a-z0-9]+(?:_[a-z0-9]+)*\z")]
GroupValue = Annotated[str, _text(4096)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, alias_generator=to_camel)


class ReportPayload(_Model):
    """`report`: the usage sync."""

    slug: Name | None = None


class UsagePayload(_Model):
    """One entry of `usage`: one group in one window."""

    subject: Subject | None = None
    value: Value
    group_by: Annotated[dict[Name, GroupValue | None], Field(max_length=MAX_GROUPS)] | None = None
    window_start: Instant
    window_end: Instant


class QueryPayload(_Model):
    """`query`: what the sync asked the meter."""

    subject: Subject | None = None


class MeterPayload(_Model):
    """`meter`: the meter that was asked."""

    slug: Slug
    id: Name | None = None
    aggregation: Annotated[str, _text(32)] | None = None


class MessagePayload(_Model):
    """The whole `report.meter` message."""

    report: ReportPayload | None = None
    usage: Annotated[tuple[UsagePayload, ...], Field(strict=False)]
    query: QueryPayload | None = None
    meter: MeterPayload


_TEXTS = {
    "missing": "is missing",
    "usage_value_type": "must be a number, or a string that holds one",
    "usage_value_range": "must be finite, below 1e30 in size, with at most 450 digits and 400 "
    "decimal places",
    "instant_type": "must be a time as in 2023-01-01T00:00:00Z, with its offset",
    "instant_range": "must lie in the years 1970 to 2999",
    "string_type": "must be a string",
    "string_unicode": "must not hold lone surrogates",
    "string_too_long": "is too long",
    "string_pattern_mismatch": "has characters that are not allowed",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "tuple_type": "must be an array",
    "too_long": "has too many entries",
}


def payload_faults(errors: Iterable[ErrorDetails]) -> tuple[tuple[str, str], ...]:
    """(path, message) of the first twenty different faults, none of them with input in it."""
    found: dict[tuple[str, str], None] = {}
    for error in errors:
        found[_path(error["loc"]), _TEXTS.get(error["type"], "is not valid")] = None
        if len(found) == MAX_FAULTS:
            break
    return tuple(found)


def _path(location: tuple[int | str, ...]) -> str:
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
            continue
        path += f".{part}" if path else part
        if part == "groupBy":
            break  # what follows is a key of the sender's
    return path
