"""What applying a mapping file changes, in words. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from app.mapping.file import Mappings
from app.mapping.models import MeterMapping, Rounding, SubjectMapping, TimestampRule


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
    return ", ".join(words)


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
    for name, meter in sorted(wanted.meters.items()):
        held = before.meters.get(name)
        if held != meter:
            yield MappingChange(
                "meter", name, describe_meter(held) if held else "", describe_meter(meter)
            )
    for name, spans in sorted(wanted.subjects.items()):
        stood = before.subjects.get(name, ())
        if stood != spans:
            yield MappingChange("subject", name, describe_subject(stood), describe_subject(spans))
