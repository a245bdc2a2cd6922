"""`meterbridge mappings`: apply and list, as tables."""

from collections.abc import Sequence
from fractions import Fraction

from rich.console import Console
from rich.table import Table
from rich.text import Text

from app.ledger.explained_words import span
from app.mapping.file import Mappings
from app.mapping.fitting import MappingNote
from app.mapping.moving import OBSTACLES, Moves
from app.mapping.plan import MappingChange, describe_split, describe_subject
from app.mapping.units import exact_text

MOST_ROWS = 50


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


def print_moves(console: Console, found: Moves, *, dry_run: bool, force: bool) -> None:
    """The booked usage that moves, and that which stays although its place is another one now."""
    if found.moves:
        table = Table("from", "period", "to", "windows", "of them at Stripe", "units", "")
        for move in found.moves[:MOST_ROWS]:
            _row(
                table,
                f"{move.subscription_item} of {move.subscription}",
                span(move.period_start, move.period_end),
                f"{move.to_subscription}, {move.to_price}",
                str(move.windows),
                str(move.at_stripe),
                exact_text(move.amount),
                OBSTACLES[move.obstacle] if move.obstacle else "",
            )
        console.print(table)
        console.print(_moving(found, dry_run=dry_run, force=force), soft_wrap=True)
    if found.stays:
        table = Table("stays on", "windows", "why")
        for stay in found.stays[:MOST_ROWS]:
            _row(
                table,
                f"{stay.subscription_item} of {stay.subscription}",
                str(stay.windows),
                stay.why,
            )
        console.print(table)


def _moving(found: Moves, *, dry_run: bool, force: bool) -> str:
    amount = exact_text(sum((move.amount for move in found.moves), Fraction(0)))
    windows = f"{found.windows} booked window{'' if found.windows == 1 else 's'}"
    left_out = len(found.moves) - MOST_ROWS
    said = f"{windows} with {amount} units {'would move' if dry_run else 'move'}"
    said += f" ({left_out} rows more than are shown)." if left_out > 0 else "."
    if dry_run and found.obstructed and not force:
        said += " This would be refused without --force: see the last column."
    return said


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
