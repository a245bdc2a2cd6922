"""`meterbridge mappings`: apply and list, as tables."""

from rich.console import Console
from rich.table import Table

from app.mapping.file import Mappings
from app.mapping.plan import MappingChange, describe_split, describe_subject


def print_changes(console: Console, changes: list[MappingChange], *, dry_run: bool) -> None:
    """What an apply changes, or would."""
    if not changes:
        console.print("Nothing to change: all mappings stand as the file says.")
        return
    table = Table("", "kind", "name", "before", "after")
    for change in changes:
        table.add_row(
            "~" if change.before else "+", change.kind, change.name, change.before, change.after
        )
    console.print(table)
    verb = "would be changed (dry run)" if dry_run else "changed"
    console.print(f"{len(changes)} mapping{'s' if len(changes) > 1 else ''} {verb}.")


def print_mappings(console: Console, mappings: Mappings) -> None:
    """All mappings."""
    if not mappings.meters and not mappings.subjects:
        console.print("No mappings yet. Write a file and run: meterbridge mappings apply FILE")
        return
    meters = Table("meter", "price", title="Meters", title_justify="left")
    for name, split in mappings.meters.items():
        meters.add_row(name, describe_split(split))
    subjects = Table("subject", "subscription", title="Subjects", title_justify="left")
    for name, spans in mappings.subjects.items():
        subjects.add_row(name, describe_subject(spans))
    console.print(meters)
    console.print(subjects)
