"""The mapping file: what an operator writes, checked and turned into mappings. Pure but for YAML.

meters:
  - meter: ai_prompt_tokens
    groups: {model: gpt-4}     # optional: only the windows whose groups have these values
    price: price_tokens        # an id, a list of ids, {lookup_key: …} or {metadata: {key: value}}
    scale: 1/1000              # units per value, a decimal or a fraction; default 1
    rounding: half_up          # half_even, up, down
    timestamp: inside          # or window_end
    record_per: window         # hour, day, period
    late: carry_forward        # or hold; default: LATE_POLICY
    whole_period: false        # true: the period's value is queried at OpenMeter
subjects:
  - subject: customer-1
    subscription: sub_1
    valid_from: 2026-01-01     # optional; inclusive
    valid_to: 2026-07-01       # optional; exclusive
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from pydantic import Field, ValidationError

from app.errors import Fault, InvalidMapping
from app.mapping.entries import SPELLINGS, MeterEntry, Strict, SubjectEntry
from app.mapping.models import MeterMapping, RecordPer, SubjectMapping
from app.mapping.splitting import Filters
from app.mapping.yaml_text import NotReadable, read_yaml

MAX_FAULTS = 20
# Each window is compared with each of them.
MAX_ENTRIES_OF_A_METER = 500
_WHOLE_FILE = "the file"


class MappingFile(Strict):
    """The whole file. What it names replaces what stood for the same meter or subject."""

    meters: list[MeterEntry] = Field(default_factory=list, max_length=10_000)
    subjects: list[SubjectEntry] = Field(default_factory=list, max_length=200_000)


@dataclass(frozen=True, slots=True)
class Mappings:
    """Mappings by what they map. A subject's spans are sorted and do not overlap; so are a
    meter's mappings, by their filters, and no window matches two filters."""

    meters: dict[str, tuple[MeterMapping, ...]]
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
        own, before = before == "price" and part in SPELLINGS, part
        if own:
            continue
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path or _WHOLE_FILE


def to_mappings(file: MappingFile) -> Mappings:
    """Check the entries against each other. Raises InvalidMapping."""
    faults: list[Fault] = []
    meters = _meters(file.meters, faults)
    subjects = _subjects(file.subjects, faults)
    if faults:
        raise InvalidMapping(faults=tuple(faults[:MAX_FAULTS]))
    return Mappings(meters, subjects)


@dataclass(slots=True)
class _Split:
    """The entries of one meter so far, with their positions in the file."""

    entries: list[tuple[int, MeterMapping]] = field(default_factory=list)
    filters: Filters = field(default_factory=Filters)
    rest: int | None = None  # the position of the entry without a filter

    def add(self, position: int, mapping: MeterMapping) -> None:
        self.entries.append((position, mapping))
        if mapping.group_filter:
            self.filters.add(position, mapping.group_filter)
        else:
            self.rest = position


def _meters(
    entries: Iterable[MeterEntry], faults: list[Fault]
) -> dict[str, tuple[MeterMapping, ...]]:
    found: dict[str, _Split] = defaultdict(_Split)
    for position, entry in enumerate(entries):
        mapping, split = entry.mapping(), found[entry.meter]
        faults += _faults(f"meters[{position}]", mapping, split)
        if len(faults) >= MAX_FAULTS:
            break
        split.add(position, mapping)
    for split in found.values():
        faults += _rest_of_whole_periods(split.entries)
    return {
        name: tuple(sorted((m for _, m in split.entries), key=lambda m: m.group_filter))
        for name, split in found.items()
    }


def _faults(path: str, mapping: MeterMapping, split: _Split) -> Iterable[Fault]:
    """What is wrong with an entry, by itself and beside those of its meter before it."""
    if mapping.whole_period and mapping.record_per in (RecordPer.HOUR, RecordPer.DAY):
        yield Fault(
            f"{path}.record_per",
            "whole_period makes one record of the whole period: leave record_per out",
        )
    if len(split.entries) >= MAX_ENTRIES_OF_A_METER:
        yield Fault(f"{path}.meter", f"is split into more than {MAX_ENTRIES_OF_A_METER} entries")
    elif mapping.group_filter:
        clash = split.filters.clash(mapping.group_filter)
        if clash is not None:
            yield Fault(
                f"{path}.groups",
                f"a window could match these and those of meters[{clash}]: name one group in "
                "both, with different values",
            )
    elif split.rest is not None:
        yield Fault(
            f"{path}.meter",
            f"is named twice (see meters[{split.rest}]); to split it, give one a filter `groups`",
        )


def _rest_of_whole_periods(entries: Sequence[tuple[int, MeterMapping]]) -> Iterable[Fault]:
    """OpenMeter's query can be asked for groups, not for all groups but some."""
    for position, mapping in entries:
        if len(entries) > 1 and mapping.whole_period and not mapping.group_filter:
            yield Fault(
                f"meters[{position}].whole_period",
                "what the other entries of this meter leave over cannot be queried: name the "
                "groups of this one, too",
            )


def _subjects(
    entries: Iterable[SubjectEntry], faults: list[Fault]
) -> dict[str, tuple[SubjectMapping, ...]]:
    spans: dict[str, list[SubjectMapping]] = defaultdict(list)
    for position, entry in enumerate(entries):
        mapping = entry.mapping()
        if any(_overlap(mapping, other) for other in spans[mapping.subject]):
            faults.append(Fault(f"subjects[{position}]", "overlaps another span of this subject"))
        spans[mapping.subject].append(mapping)
    return {subject: tuple(sorted(held, key=_start)) for subject, held in spans.items()}


def _start(mapping: SubjectMapping) -> datetime:
    return mapping.valid_from or datetime.min.replace(tzinfo=UTC)


def _overlap(one: SubjectMapping, other: SubjectMapping) -> bool:
    return (
        one.valid_to is None or other.valid_from is None or other.valid_from < one.valid_to
    ) and (other.valid_to is None or one.valid_from is None or one.valid_from < other.valid_to)
