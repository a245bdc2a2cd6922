"""The mapping file: what an operator writes, checked and turned into mappings. Pure but for YAML.

meters:
  - meter: ai_prompt_tokens
    price: price_tokens        # an id, a list of ids, {lookup_key: …} or {metadata: {key: value}}
    scale: 1/1000              # units per value, a decimal or a fraction; default 1
    rounding: half_up          # half_even, up, down
    timestamp: inside          # or window_end
subjects:
  - subject: customer-1
    subscription: sub_1
    valid_from: 2026-01-01     # optional; inclusive
    valid_to: 2026-07-01       # optional; exclusive
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from fractions import Fraction
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from app.errors import Fault, InvalidMapping
from app.mapping.models import (
    MeterMapping,
    PriceSelector,
    Rounding,
    SubjectMapping,
    TimestampRule,
)
from app.mapping.yaml_text import NotReadable, read_yaml

MAX_FAULTS = 20
_WHOLE_FILE = "the file"
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
                return datetime.combine(date.fromisoformat(value), time(), UTC)
            parsed = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError("is not a time, like 2026-01-01T00:00:00Z, or a date") from None
    if isinstance(parsed, datetime):
        if parsed.tzinfo is None:
            raise ValueError("needs an offset, like 2026-01-01T00:00:00Z")
        try:
            return parsed.astimezone(UTC)
        except OverflowError:
            raise ValueError("is out of range") from None
    raise ValueError("must be a time or a date, as text")  # a number could be anything's seconds


_Time = Annotated[datetime, BeforeValidator(_parse_time)]
_Scale = Annotated[
    str,
    BeforeValidator(_written_scale),
    WithJsonSchema(
        {"anyOf": [{"type": "integer"}, {"type": "string"}], "examples": ["1", "1/1000"]}
    ),
]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


class PriceEntry(_Strict):
    """A price named by what survives its edits."""

    lookup_key: _Text | None = None
    metadata: dict[_Text, _Text] | None = None

    @model_validator(mode="after")
    def _one(self) -> "PriceEntry":
        if (self.lookup_key is None) == (not self.metadata):
            raise ValueError("needs exactly one of lookup_key, metadata")
        return self


_SPELLINGS = ("id", "ids", "named")


def _spelling(price: object) -> str:
    """How a price is given; what is wrong is then told of that spelling only."""
    return "id" if isinstance(price, str) else "ids" if isinstance(price, list) else "named"


_Price = Annotated[
    Annotated[_StripeId, Tag("id")]
    | Annotated[list[_StripeId], Field(min_length=1, max_length=100), Tag("ids")]
    | Annotated[PriceEntry, Tag("named")],
    Discriminator(_spelling),
]


class MeterEntry(_Strict):
    """One meter of a mapping file."""

    meter: _Meter
    price: _Price
    scale: _Scale = "1"
    rounding: Rounding = Rounding.HALF_UP
    timestamp: TimestampRule = TimestampRule.INSIDE

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
            self.meter, price, parse_scale(self.scale), self.rounding, self.timestamp
        )


class SubjectEntry(_Strict):
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


class MappingFile(_Strict):
    """The whole file. What it names replaces what stood for the same meter or subject."""

    meters: list[MeterEntry] = Field(default_factory=list, max_length=10_000)
    subjects: list[SubjectEntry] = Field(default_factory=list, max_length=200_000)


@dataclass(frozen=True, slots=True)
class Mappings:
    """Mappings by what they map. A subject's spans are sorted and do not overlap."""

    meters: dict[str, MeterMapping]
    subjects: dict[str, tuple[SubjectMapping, ...]]


def from_yaml(text: str) -> MappingFile:
    """Read a mapping file. Raises InvalidMapping with the paths of what is wrong."""
    try:
        data = read_yaml(text)
    except NotReadable as error:
        where = _WHOLE_FILE if error.line is None else f"line {error.line}"
        raise InvalidMapping(
            f"The file {error.message}", faults=(Fault(where, error.message),)
        ) from None
    try:
        return MappingFile.model_validate({} if data in (None, "") else data)
    except ValidationError as error:
        raise InvalidMapping(
            faults=tuple(
                Fault(_path(fault["loc"]), fault["msg"].removeprefix("Value error, "))
                for fault in error.errors(include_url=False, include_input=False)[:MAX_FAULTS]
            )
        ) from None


def _path(location: Iterable[int | str]) -> str:
    path = ""
    before: int | str = ""
    for part in location:
        # Which spelling of a price was tried is Pydantic's own step, not one of the file.
        own, before = before == "price" and part in _SPELLINGS, part
        if own:
            continue
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path or _WHOLE_FILE


def to_mappings(file: MappingFile) -> Mappings:
    """Check the entries against each other. Raises InvalidMapping."""
    faults: list[Fault] = []
    meters: dict[str, MeterMapping] = {}
    for position, entry in enumerate(file.meters):
        if entry.meter in meters:
            faults.append(Fault(f"meters[{position}].meter", "is named twice"))
        meters[entry.meter] = entry.mapping()
    spans: dict[str, list[SubjectMapping]] = defaultdict(list)
    for position, subject in enumerate(file.subjects):
        mapping = subject.mapping()
        if any(_overlap(mapping, other) for other in spans[mapping.subject]):
            faults.append(Fault(f"subjects[{position}]", "overlaps another span of this subject"))
        spans[mapping.subject].append(mapping)
    if faults:
        raise InvalidMapping(faults=tuple(faults[:MAX_FAULTS]))
    return Mappings(
        meters, {subject: tuple(sorted(held, key=_start)) for subject, held in spans.items()}
    )


def _start(mapping: SubjectMapping) -> datetime:
    return mapping.valid_from or datetime.min.replace(tzinfo=UTC)


def _overlap(one: SubjectMapping, other: SubjectMapping) -> bool:
    return (
        one.valid_to is None or other.valid_from is None or other.valid_from < one.valid_to
    ) and (other.valid_to is None or one.valid_from is None or one.valid_from < other.valid_to)
