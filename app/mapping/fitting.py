"""Whether wanted meter mappings fit what was seen of meters and prices. Pure.

A misfit that is known when a mapping is applied is refused there, not found later in parked usage.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from app.errors import Fault
from app.mapping.aggregation import misfit
from app.mapping.file import Mappings
from app.mapping.models import MeterMapping, SnapshotItem
from app.mapping.splitting import describe_filter, describe_name


@dataclass(frozen=True, slots=True)
class Seen:
    """The aggregations of meters, of their newest windows, and one item for each price."""

    aggregations: Mapping[str, str]
    items: Sequence[SnapshotItem]


@dataclass(frozen=True, slots=True)
class MappingNote:
    """What an operator should know of a meter's mapping that is applied nevertheless."""

    meter: str
    groups: str  # of the mapping's filter, in words; empty where it has none
    message: str

    @property
    def name(self) -> str:
        """The meter, and the groups of it that the mapping is for."""
        return f"{self.meter} ({self.groups})" if self.groups else self.meter


@dataclass(frozen=True, slots=True)
class Fit:
    """`faults` forbid the apply, `notes` go with it."""

    faults: tuple[Fault, ...]
    notes: tuple[MappingNote, ...]


def fit(before: Mappings, wanted: Mappings, seen: Seen) -> Fit:
    """Check the aggregation of each wanted meter against the prices that were seen.

    A mapping that stands already is not refused, or nobody could apply anything else in its file.
    """
    faults: list[Fault] = []
    notes: list[MappingNote] = []
    for name, split in sorted(wanted.meters.items()):
        for mapping in split:
            stands = mapping in before.meters.get(name, ())
            prices = [item for item in seen.items if mapping.price.matches(item)]
            aggregation = seen.aggregations.get(name)
            if aggregation is None or not prices:
                if not stands:
                    notes.append(_note(mapping, _not_checked(aggregation, prices)))
                continue
            misfits = list(_misfits(mapping, aggregation, prices))
            if stands:
                notes += [_note(mapping, f"{message}; its usage is parked") for message in misfits]
            else:
                place = f"meter {describe_name(mapping)}"
                faults += [Fault(place, message) for message in misfits]
    return Fit(tuple(faults), tuple(notes))


def whole_periods(wanted: Mappings, *, openmeter_api: bool) -> Iterator[MappingNote]:
    """A note for each mapping whose value nobody can ask for."""
    if openmeter_api:
        return
    for _, split in sorted(wanted.meters.items()):
        for mapping in split:
            if mapping.whole_period:
                yield _note(
                    mapping,
                    "whole_period needs OPENMETER_API_URL, which is not set: its usage is parked",
                )


def _misfits(
    mapping: MeterMapping, aggregation: str, prices: Iterable[SnapshotItem]
) -> Iterator[str]:
    for item in sorted(prices, key=lambda item: item.price_id):
        why = misfit(aggregation, item.aggregate_usage, whole_period=mapping.whole_period)
        if why is not None:
            yield f"{item.price_id}: {why}"


def _not_checked(aggregation: str | None, prices: Sequence[SnapshotItem]) -> str:
    missing = []
    if aggregation is None:
        missing.append("no window of this meter")
    if not prices:
        missing.append("no subscription with this price")
    return f"not checked: {' and '.join(missing)} has been seen"


def _note(mapping: MeterMapping, message: str) -> MappingNote:
    return MappingNote(mapping.meter, describe_filter(mapping.group_filter), message)
