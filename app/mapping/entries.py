"""The entries of a mapping file: what may be written of one meter, price or subject. Pure."""

import re
from datetime import UTC, date, datetime, time
from fractions import Fraction
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    WithJsonSchema,
    model_validator,
)

from app.mapping.models import (
    LatePolicy,
    MeterMapping,
    PriceSelector,
    RecordPer,
    Rounding,
    SubjectMapping,
    TimestampRule,
)

# A filter is part of a unique key of PostgreSQL, whose entries hold 2,700 bytes.
MAX_FILTER_GROUPS = 8
MAX_FILTER_BYTES = 2_000
# No usage is older than Unix time; far years are typing errors, and drivers read them in their own
# ways (year 1 comes back without its offset).
_EARLIEST_YEAR, _LATEST_YEAR = 1970, 9998
_DECIMAL = re.compile(r"\d{1,30}(\.\d{1,30})?", re.ASCII)
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_FRACTION = re.compile(r"\d{1,30}/\d{1,30}", re.ASCII)
# What a subject may hold is what a delivery may hold: no control characters, which cannot be
# stored (NUL) or seen.
_Subject = Annotated[
    str, StringConstraints(min_length=1, max_length=512, pattern=r"^[^\x00-\x1f]+$")
]
_StripeId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.\-]{1,255}$")]
_Meter = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(?:_[a-z0-9]+)*$", max_length=64)]
_Text = Annotated[str, StringConstraints(min_length=1, max_length=500, pattern=r"^[^\x00]+$")]
# OpenMeter's value of a group is empty where the event had none.
_GroupValue = Annotated[str, StringConstraints(max_length=500, pattern=r"^[^\x00]*$")]


def parse_scale(value: int | str) -> Fraction:
    """Units per value as an exact fraction: `1`, `0.001`, `1/1000`. Above zero."""
    written = str(value)
    if _DECIMAL.fullmatch(written) or _FRACTION.fullmatch(written):
        _, slash, denominator = written.partition("/")
        if not slash or int(denominator) > 0:
            scale = Fraction(written)
            if scale > 0:
                return scale
    raise ValueError("must be a decimal or a fraction above zero, like 1, 0.001 or 1/1000")


def _written_scale(value: Any) -> str:
    # Not a float: one would not be exact. In YAML every number arrives as it is written.
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError("must be a whole number, or a decimal or fraction as text")
    parse_scale(value)
    return str(value)


def _parse_time(value: Any) -> Any:
    """A time with its offset, or a date (midnight UTC)."""
    parsed = value
    if isinstance(value, str):
        try:
            if _DATE.fullmatch(value):
                parsed = datetime.combine(date.fromisoformat(value), time(), UTC)
            else:
                parsed = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError("is not a time, like 2026-01-01T00:00:00Z, or a date") from None
    if isinstance(parsed, datetime):
        if parsed.tzinfo is None:
            raise ValueError("needs an offset, like 2026-01-01T00:00:00Z")
        if not _EARLIEST_YEAR <= parsed.year <= _LATEST_YEAR:
            raise ValueError(f"is out of range: {_EARLIEST_YEAR} to {_LATEST_YEAR}")
        return parsed.astimezone(UTC)
    raise ValueError("must be a time or a date, as text")  # a number could be anything's seconds


def _parse_flag(value: Any) -> bool:
    # In YAML it arrives as it is written; `yes`, `on` and 1 are read in two ways by YAML's readers.
    if value is True or value is False:
        return bool(value)
    if value in ("true", "false"):
        return bool(value == "true")
    raise ValueError("must be true or false")


def _bounded(groups: dict[str, str]) -> dict[str, str]:
    if sum(len(name.encode()) + len(value.encode()) for name, value in groups.items()) > (
        MAX_FILTER_BYTES
    ):
        raise ValueError(f"must have {MAX_FILTER_BYTES} bytes at most, names and values together")
    return groups


_Time = Annotated[datetime, BeforeValidator(_parse_time)]
_Scale = Annotated[
    str,
    BeforeValidator(_written_scale),
    WithJsonSchema(
        {"anyOf": [{"type": "integer"}, {"type": "string"}], "examples": ["1", "1/1000"]}
    ),
]
_Flag = Annotated[
    bool,
    BeforeValidator(_parse_flag),
    WithJsonSchema({"anyOf": [{"type": "boolean"}, {"enum": ["true", "false"]}]}),
]
_Groups = Annotated[
    dict[_Text, _GroupValue],
    Field(min_length=1, max_length=MAX_FILTER_GROUPS, examples=[{"model": "gpt-4"}]),
    AfterValidator(_bounded),
]


class Strict(BaseModel):
    """An object that has no member but those named."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


class PriceEntry(Strict):
    """A price named by what survives its edits."""

    lookup_key: _Text | None = None
    metadata: dict[_Text, _Text] | None = None

    @model_validator(mode="after")
    def _one(self) -> "PriceEntry":
        if (self.lookup_key is None) == (not self.metadata):
            raise ValueError("needs exactly one of lookup_key, metadata")
        return self


SPELLINGS = ("id", "ids", "named")


def _spelling(price: object) -> str:
    """How a price is given; what is wrong is then told of that spelling only."""
    return "id" if isinstance(price, str) else "ids" if isinstance(price, list) else "named"


_Price = Annotated[
    Annotated[_StripeId, Tag("id")]
    | Annotated[list[_StripeId], Field(min_length=1, max_length=100), Tag("ids")]
    | Annotated[PriceEntry, Tag("named")],
    Discriminator(_spelling),
]


class MeterEntry(Strict):
    """One meter of a mapping file, or the windows of it that have some groups."""

    meter: _Meter
    groups: _Groups | None = None
    price: _Price
    scale: _Scale = "1"
    rounding: Rounding = Rounding.HALF_UP
    timestamp: TimestampRule = TimestampRule.INSIDE
    record_per: RecordPer = RecordPer.WINDOW
    late: LatePolicy | None = None
    whole_period: _Flag = False

    @model_validator(mode="before")
    @classmethod
    def _beside_the_meter(cls, data: Any) -> Any:
        # `lookup_key: …` or `metadata: …` may stand in the place of `price:`.
        if isinstance(data, dict) and "price" not in data:
            named = {key: data[key] for key in ("lookup_key", "metadata") if key in data}
            if named:
                rest = {key: value for key, value in data.items() if key not in named}
                return {**rest, "price": named}
        return data

    def mapping(self) -> MeterMapping:
        """As a value."""
        if isinstance(self.price, PriceEntry):
            price = PriceSelector(
                lookup_key=self.price.lookup_key,
                metadata=tuple(sorted((self.price.metadata or {}).items())),
            )
        else:
            ids = [self.price] if isinstance(self.price, str) else self.price
            price = PriceSelector(ids=frozenset(ids))
        return MeterMapping(
            self.meter,
            price,
            parse_scale(self.scale),
            self.rounding,
            self.timestamp,
            tuple(sorted((self.groups or {}).items())),
            self.record_per,
            self.late,
            self.whole_period,
        )


class SubjectEntry(Strict):
    """One subject of a mapping file."""

    subject: _Subject
    subscription: _StripeId
    valid_from: _Time | None = None
    valid_to: _Time | None = None

    @model_validator(mode="after")
    def _span(self) -> "SubjectEntry":
        if self.valid_from and self.valid_to and self.valid_from >= self.valid_to:
            raise ValueError("valid_to must be after valid_from")
        return self

    def mapping(self) -> SubjectMapping:
        """As a value."""
        return SubjectMapping(self.subject, self.subscription, self.valid_from, self.valid_to)
