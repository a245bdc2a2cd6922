"""Changes of the mappings whose effect on every window is plain from the mappings alone."""

from dataclasses import dataclass, replace
from typing import Protocol

from tests.chaos.mappings import Mappings, Span

# Later than all that was told, whatever is on its way; and on a window's boundary.
AHEAD = 1_800
BOUNDARY = 600


class Change(Protocol):
    """A change of some mappings."""

    def part(self, mappings: Mappings, now: int) -> Mappings:
        """The changed mappings of what it names; `now` in Unix seconds."""
        ...

    @property
    def subject(self) -> str | None:
        """Whose windows it moves; None: of all subjects."""
        ...


@dataclass(frozen=True, slots=True)
class MappedLate:
    """Nobody said who pays for a subject, until now."""

    subject: str
    subscription: str

    def part(self, mappings: Mappings, now: int) -> Mappings:
        """Paid for all time."""
        return Mappings(subjects={self.subject: (Span(self.subscription),)})


@dataclass(frozen=True, slots=True)
class DatedBack:
    """Another subscription pays for a subject, and always should have."""

    subject: str
    subscription: str

    def part(self, mappings: Mappings, now: int) -> Mappings:
        """Paid by the other one for all time: what is booked moves."""
        return Mappings(subjects={self.subject: (Span(self.subscription),)})


@dataclass(frozen=True, slots=True)
class FromThenOn:
    """Another subscription pays for a subject from a moment ahead on."""

    subject: str
    subscription: str

    def part(self, mappings: Mappings, now: int) -> Mappings:
        """Two spans: nothing that was told so far moves."""
        then = (now + AHEAD) // BOUNDARY * BOUNDARY + BOUNDARY
        [span] = mappings.subjects[self.subject]
        spans = (replace(span, until=then), Span(self.subscription, since=then))
        return Mappings(subjects={self.subject: spans})


@dataclass(frozen=True, slots=True)
class PriceOfAGroup:
    """A group of a meter gets a price of its own."""

    meter: str
    group: tuple[str, str]
    price: str

    @property
    def subject(self) -> None:
        """All that have windows of the group."""
        return None

    def part(self, mappings: Mappings, now: int) -> Mappings:
        """The meter with one more entry: what is booked of the group moves."""
        entries = mappings.meters[self.meter]
        rest = next(entry for entry in entries if not entry.groups)
        named = replace(rest, price=self.price, groups=(self.group,))
        return Mappings(meters={self.meter: (named, *entries)})
