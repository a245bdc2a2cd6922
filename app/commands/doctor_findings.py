"""What the doctor finds, and how it is told: a line each for people, one object for machines."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum

from rich.console import Console
from rich.markup import escape
from rich.table import Table


class Level(StrEnum):
    """How a check went."""

    OK = "ok"
    WARNING = "warning"  # it works, but somebody should look
    PROBLEM = "problem"  # usage is not received, not billed, or not provably right


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: its stable name, how it went, what was seen, and what to do. Never a secret."""

    check: str
    level: Level
    detail: str
    action: str = ""


Tell = Callable[[Finding], None]

_STYLES = {Level.OK: "green", Level.WARNING: "yellow", Level.PROBLEM: "bold red"}


def print_finding(console: Console, finding: Finding) -> None:
    """One check, in columns that stay where they are from check to check."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(width=7)
    grid.add_column(width=16, overflow="fold")
    grid.add_column(overflow="fold")
    style = _STYLES[finding.level]
    said = escape(finding.detail)
    if finding.action:
        said += f"\n-> {escape(finding.action)}"
    grid.add_row(f"[{style}]{finding.level}[/{style}]", finding.check, said)
    console.print(grid)


def print_outcome(console: Console, findings: Sequence[Finding], reads: int) -> None:
    """The last line: how many of each, and what looking has cost at Stripe."""

    def counted(number: int, noun: str) -> str:
        return f"{number} {noun}{'' if number == 1 else 's'}"

    levels = [finding.level for finding in findings]
    console.print(
        f"\n{counted(levels.count(Level.PROBLEM), 'problem')}, "
        f"{counted(levels.count(Level.WARNING), 'warning')}. "
        f"{counted(reads, 'read')} made at Stripe, where reads are rationed.",
        highlight=False,
    )


def as_json(findings: Sequence[Finding], reads: int) -> str:
    """All of it as one JSON object."""
    document = {
        "ok": all(finding.level is not Level.PROBLEM for finding in findings),
        "checks": [asdict(finding) for finding in findings],
        "stripe_reads": reads,
    }
    return json.dumps(document, indent=2, ensure_ascii=False)
