"""What the demo prints: tables that fit into 80 columns."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from fractions import Fraction

from rich import box
from rich.console import Console
from rich.table import Table

from app.commands.demo_comparison import (
    Answered,
    FaultSeen,
    ItemComparison,
    StandingWindow,
)

_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class ParkedRow:
    """A parked window as the service tells it."""

    subject: str
    meter: str
    reason: str
    action: str


def _table(title: str, *columns: str) -> Table:
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
        show_edge=False,
    )
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def print_answers(console: Console, answers: Iterable[Answered]) -> None:
    """What was posted and how it was answered."""
    table = _table("Webhooks sent", "subject", "meter", "what it is", "answer")
    for answer in answers:
        delivery = answer.delivery
        status = str(answer.status)
        if not answer.expected:
            status += f", not {delivery.status}"
        table.add_row(
            delivery.subject,
            delivery.meter,
            delivery.title,
            status,
            style=None if answer.expected else "red",
        )
    console.print(table, "")


def print_comparison(console: Console, items: Sequence[ItemComparison]) -> None:
    """The two sides: windows as sent, and for each item what Stripe holds."""
    table = _table("What OpenMeter sent, and what Stripe holds", "subject", "meter", "window (UTC)")
    for column in ("sent", "Stripe"):
        table.add_column(column, justify="right", overflow="fold")
    table.add_column("")
    for item in items:
        for window in item.windows:
            table.add_row(window.subject, window.meter, _when(window), str(window.value))
        total = "sum" if item.scale == 1 else f"sum x {item.scale}"
        if item.exact != item.wanted:
            table.add_row("", item.item, total, _exact(item.exact), style="bold")
            total = "rounded"
        table.add_row(
            "",
            "" if total == "rounded" else item.item,
            total,
            str(item.wanted),
            "none" if item.held is None else str(item.held),
            "[green]equal[/green]" if item.equal else "[red]WRONG[/red]",
            style="bold",
            end_section=True,
        )
    console.print(table, "")


def _exact(units: Fraction) -> str:
    """A fraction whose denominator is a power of ten, as digits; no float comes near."""
    digits = 0
    while (units * 10**digits).denominator != 1:
        digits += 1
    whole, rest = divmod(int(units * 10**digits), 10**digits)
    return f"{whole}.{rest:0{digits}}" if digits else str(whole)


def _when(window: StandingWindow) -> str:
    start = window.window_start
    groups = "".join(f" {value}" for _, value in window.groups)
    if window.window_end - start == _DAY:
        return f"{start:%m-%d}{groups}"
    return f"{start:%m-%d %H}-{window.window_end:%H} h{groups}"


def print_parked(console: Console, rows: Iterable[ParkedRow]) -> None:
    """What is not billed, why, and what releases it."""
    table = _table("Parked: kept and shown, not billed", "subject", "meter", "reason", "what to do")
    for row in rows:
        table.add_row(row.subject, row.meter, row.reason, row.action)
    console.print(table, "")


def print_faults(console: Console, faults: Iterable[FaultSeen]) -> None:
    """What Stripe was made to do wrong."""
    table = _table("Faults injected at Stripe", "what", "")
    for fault in faults:
        table.add_row(fault.title, "[green]seen[/green]" if fault.seen else "[red]not seen[/red]")
    console.print(table, "")


def print_verdict(console: Console, wrong: Sequence[str]) -> None:
    """Whether the demo has shown what it promised."""
    if not wrong:
        console.print(
            "[bold green]EQUAL[/bold green]: Stripe holds exactly what OpenMeter sent, nothing "
            "lost or doubled; every\nrefusal and every parked window is the expected one."
        )
        return
    console.print("[bold red]NOT AS IT MUST BE[/bold red]:")
    for line in wrong:
        console.print(f"  {line}", markup=False, highlight=False)


def print_addresses(console: Console, addresses: Mapping[str, str]) -> None:
    """Where to look and what to try, on lines that can be copied whole."""
    console.print()
    for name, address in addresses.items():
        console.print(f"[bold]{name}[/bold]")
        console.print(f"  {address}", markup=False, highlight=False, soft_wrap=True)
    console.print()
