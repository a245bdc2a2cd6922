"""What was discovered: as tables, as a mapping file, and as one JSON object."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

from app.mapping.discovery import ACTIONS, Ambiguous, Discovery, Proposal, Unresolved

_HEADER = (
    "# Proposed by `meterbridge mappings discover`. Read it, then: meterbridge mappings apply\n"
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """A run: what was found, and what came of it.

    `applied`: how many proposals were mapped; None where that was not asked for. `overtaken`:
    subjects that somebody else mapped meanwhile. `notes`: what to know of the run.
    """

    found: Discovery
    applied: int | None = None
    overtaken: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def in_doubt(self) -> bool:
        """Whether somebody must decide."""
        return bool(self.found.ambiguous or self.overtaken)


class _Dumper(yaml.SafeDumper):
    """Quotes and escapes what does not print.

    Left to itself PyYAML writes U+0085 or U+2028 raw, and reads a space: another subject.
    """


def _scalar(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = None if value.isprintable() else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _scalar)


def mapping_file(proposals: Iterable[Proposal]) -> str:
    """The proposals as a mapping file."""
    subjects = [{"subject": one.subject, "subscription": one.subscription} for one in proposals]
    return _HEADER + yaml.dump(
        {"subjects": subjects}, Dumper=_Dumper, allow_unicode=True, sort_keys=False, width=10_000
    )


def as_json(outcome: Outcome) -> str:
    """All of it as one JSON object."""
    found = outcome.found
    document = {
        "proposals": [
            {
                "subject": one.subject,
                "subscription": one.subscription,
                "source": one.source,
                "why": one.why,
            }
            for one in found.proposals
        ],
        "ambiguous": [
            {
                "subject": one.subject,
                "reason": one.doubt,
                "candidates": one.candidates,
                "why": one.why,
                "action": ACTIONS[one.doubt],
            }
            for one in found.ambiguous
        ],
        "unresolved": [
            {
                "subject": one.subject,
                "reason": one.gap,
                "why": one.why,
                "action": ACTIONS[one.gap],
            }
            for one in found.unresolved
        ],
        "already_mapped": found.already_mapped,
        "applied": outcome.applied,
        "overtaken": outcome.overtaken,
        "notes": outcome.notes,
    }
    return json.dumps(document, indent=2, ensure_ascii=False)


def print_outcome(console: Console, outcome: Outcome, *, with_file: bool) -> None:
    """All of it for people. `with_file`: the mapping file, too."""
    found = outcome.found
    if found.proposals:
        table = _table("Proposals", "subject", "subscription", "source", "why")
        for one in found.proposals:
            _row(table, one.subject, one.subscription, one.source, one.why)
        console.print(table)
    if found.ambiguous:
        console.print(_doubtful("In doubt: nothing is proposed", found.ambiguous))
    if found.unresolved:
        console.print(_leading_nowhere(found.unresolved))
    if with_file and found.proposals:
        text = mapping_file(found.proposals)
        console.print(text, markup=False, highlight=False, soft_wrap=True)
    for line in _summary(outcome):
        console.print(line, markup=False, highlight=False)


def _doubtful(title: str, ambiguous: Sequence[Ambiguous]) -> Table:
    table = _table(title, "subject", "candidates", "why, and what to do")
    for one in ambiguous:
        said = f"{one.doubt}: {one.why}\n-> {ACTIONS[one.doubt]}"
        _row(table, one.subject, ", ".join(one.candidates), said)
    return table


def _leading_nowhere(unresolved: Sequence[Unresolved]) -> Table:
    table = _table("Nothing found", "subject", "why, and what to do")
    for one in unresolved:
        _row(table, one.subject, f"{one.gap}: {one.why}\n-> {ACTIONS[one.gap]}")
    return table


def _summary(outcome: Outcome) -> Iterable[str]:
    found = outcome.found
    yield from outcome.notes
    if outcome.overtaken:
        names = ", ".join(outcome.overtaken)
        yield f"Mapped by somebody else meanwhile, and left as they are: {names}."
    counts = (
        (len(found.proposals), "proposed"),
        (len(found.ambiguous), "in doubt"),
        (len(found.unresolved), "without a subscription"),
        (found.already_mapped, "mapped so already"),
    )
    yield f"Subjects: {', '.join(f'{number} {word}' for number, word in counts)}."
    if outcome.applied is not None:
        yield f"{outcome.applied} mapping{'' if outcome.applied == 1 else 's'} applied."
    elif found.proposals:
        yield "Nothing was changed: apply the file, or run this again with --apply."


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _row(table: Table, *cells: str) -> None:
    # As text: a subject may hold what Rich takes for its markup, [/red].
    table.add_row(*(Text(cell) for cell in cells))
