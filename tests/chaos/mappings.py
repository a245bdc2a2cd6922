"""Who pays by which price, as the harness knows it: plain facts, nothing of the program's logic."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any

Groups = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Span:
    """A subscription that pays from `since` (inclusive) to `until` (exclusive), Unix seconds."""

    subscription: str
    since: int | None = None
    until: int | None = None

    def covers(self, second: int) -> bool:
        """Whether it pays at that second."""
        return (self.since is None or second >= self.since) and (
            self.until is None or second < self.until
        )


@dataclass(frozen=True, slots=True)
class MeterEntry:
    """A price for the windows of a meter that have these groups (none: for all others)."""

    price: str
    groups: Groups = ()
    scale: Fraction = Fraction(1)
    record_per: str = "window"


@dataclass(slots=True)
class Mappings:
    """Meters and subjects as they were last applied."""

    meters: dict[str, tuple[MeterEntry, ...]] = field(default_factory=dict)
    subjects: dict[str, tuple[Span, ...]] = field(default_factory=dict)

    def price_of(self, meter: str, groups: Groups) -> MeterEntry:
        """The entry whose groups a window has, else the one for the rest."""
        entries = self.meters[meter]
        named = [entry for entry in entries if entry.groups and set(entry.groups) <= set(groups)]
        return named[0] if named else next(entry for entry in entries if not entry.groups)

    def payer_of(self, subject: str, second: int) -> str | None:
        """The subscription that pays for a subject at a second, if any."""
        spans = self.subjects.get(subject, ())
        return next((span.subscription for span in spans if span.covers(second)), None)

    def document(self) -> dict[str, Any]:
        """All of it, as the program's API takes it."""
        return {
            "meters": [
                {
                    "meter": meter,
                    "price": entry.price,
                    "scale": str(entry.scale),
                    "record_per": entry.record_per,
                    **({"groups": dict(entry.groups)} if entry.groups else {}),
                }
                for meter, entries in self.meters.items()
                for entry in entries
            ],
            "subjects": [
                {"subject": subject, "subscription": span.subscription}
                | _times({"valid_from": span.since, "valid_to": span.until})
                for subject, spans in self.subjects.items()
                for span in spans
            ],
        }


def _times(given: Mapping[str, int | None]) -> dict[str, str]:
    return {
        name: datetime.fromtimestamp(second, UTC).isoformat()
        for name, second in given.items()
        if second is not None
    }
