"""`meterbridge mappings`: apply and list, as tables."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from app.mapping.file import Mappings
from app.mapping.fitting import MappingNote
from app.mapping.plan import MappingChange, describe_split, describe_subject


def print_changes(console: Console, changes: list[MappingChange], *, dry_run: bool) -> None:
    """What an apply changes, or would."""
    if not changes:
        console.print("Nothing to change: all mappings stand as the file says.")
        return
    table = Table("", "kind", "name", "before", "after")
    for change in changes:
        sign = "~" if change.before else "+"
        _row(table, sign, change.kind, change.name, change.before, change.after)
    console.print(table)
    verb = "would be changed (dry run)" if dry_run else "changed"
    console.print(f"{len(changes)} mapping{'s' if len(changes) > 1 else ''} {verb}.")


def print_notes(console: Console, notes: Sequence[MappingNote]) -> None:
    """What is to be known of mappings that were applied nevertheless; nothing without any."""
    if not notes:
        return
    table = Table("meter", "groups", "to be known")
    for note in notes:
        _row(table, note.meter, note.groups, note.message)
    console.print(table)


def print_mappings(console: Console, mappings: Mappings) -> None:
    """All mappings."""
    if not mappings.meters and not mappings.subjects:
        console.print("No mappings yet. Write a file and run: meterbridge mappings apply FILE")
        return
    meters = Table("meter", "price", title="Meters", title_justify="left")
    for name, split in mappings.meters.items():
        _row(meters, name, describe_split(split))
    subjects = Table("subject", "subscription", title="Subjects", title_justify="left")
    for name, spans in mappings.subjects.items():
        _row(subjects, name, describe_subject(spans))
    console.print(meters)
    console.print(subjects)


def _row(table: Table, *cells: str) -> None:
    # As text: a subject or a group may hold what Rich takes for its markup, [/red].
    table.add_row(*(Text(cell) for cell in cells))
