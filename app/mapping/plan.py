"""What applying a mapping file changes, in words. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from app.mapping.file import Mappings
from app.mapping.models import (
    MeterMapping,
    RecordPer,
    Rounding,
    SubjectMapping,
    TimestampRule,
)
from app.mapping.splitting import describe_filter


@dataclass(frozen=True, slots=True)
class MappingChange:
    """One meter or subject that is added or changed. `before` is empty where it is new."""

    kind: Literal["meter", "subject"]
    name: str
    before: str
    after: str


def describe_meter(mapping: MeterMapping) -> str:
    """A meter mapping in one line."""
    words = [mapping.price.describe()]
    if mapping.scale != Fraction(1):
        words.append(f"scale {mapping.scale}")
    if mapping.rounding is not Rounding.HALF_UP:
        words.append(f"rounding {mapping.rounding}")
    if mapping.timestamp_rule is not TimestampRule.INSIDE:
        words.append(f"timestamp {mapping.timestamp_rule}")
    if mapping.record_per is not RecordPer.WINDOW:
        words.append(f"a record per {mapping.record_per}")
    if mapping.late_policy is not None:
        words.append(f"late: {mapping.late_policy}")
    if mapping.whole_period:
        words.append("whole period")
    return ", ".join(words)


def describe_split(meters: Sequence[MeterMapping]) -> str:
    """A meter's mappings in one line: those with a filter first, then the one for the rest."""
    filtered = [
        f"{describe_filter(meter.group_filter)}: {describe_meter(meter)}"
        for meter in meters
        if meter.group_filter
    ]
    rest = [describe_meter(meter) for meter in meters if not meter.group_filter]
    return "; ".join(filtered + [f"else: {words}" if filtered else words for words in rest])


def describe_subject(spans: tuple[SubjectMapping, ...]) -> str:
    """A subject's mappings in one line."""
    return "; ".join(
        span.subscription
        + (f" from {span.valid_from.isoformat()}" if span.valid_from else "")
        + (f" to {span.valid_to.isoformat()}" if span.valid_to else "")
        for span in spans
    )


def changes(before: Mappings, wanted: Mappings) -> Iterator[MappingChange]:
    """What differs, meters first, each by name."""
    for name, split in sorted(wanted.meters.items()):
        held = before.meters.get(name, ())
        if held != split:
            yield MappingChange("meter", name, describe_split(held), describe_split(split))
    for name, spans in sorted(wanted.subjects.items()):
        stood = before.subjects.get(name, ())
        if stood != spans:
            yield MappingChange("subject", name, describe_subject(stood), describe_subject(spans))
