"""docs/performance.md: the table, how each figure was measured, and where the time goes. Pure."""

from collections.abc import Sequence

from bench.arithmetic import Verdict
from bench.machine import Machine
from bench.result import Figure, Line, Measured

Found = Sequence[tuple[Figure, Measured]]

_HEAD = """\
# Performance

Written by `make bench`; do not edit it. Each figure is a ratio of two things that were measured in
turns on one machine in one run, the median of the repeats: ratios last, absolute figures are this
machine's. In brackets: the least and the greatest of the repeats. What is fast and wrong is not
fast: where anything is sent, a figure counts only if the sandbox holds every unit of it.

    make bench                                     # all of it: 22 minutes, 16 GB; writes this page
    make bench ARGS="--rows 1000000"               # with a great table that is filled sooner
    make bench ARGS="ingest end_to_end --quick"    # a short try of some; only tells
"""


def render(machine: Machine, found: Found, *, quick: bool) -> str:
    """The page."""
    parts = [_HEAD]
    if quick:
        parts.append("**A short try (`--quick`): each figure was measured once, and is rough.**\n")
    parts += [_machine(machine), _table(found)]
    missed = [
        line.title
        for _, measured in found
        for line in measured.lines
        if line.verdict is Verdict.MISSED
    ]
    if missed:
        parts.append(
            "Not met: " + "; ".join(missed) + ". Where the time goes is shown below each figure.\n"
        )
    parts += [_section(figure, measured) for figure, measured in found]
    return "\n".join(parts).rstrip() + "\n"


def terse(found: Found) -> str:
    """The lines for a terminal."""
    text = []
    for _, measured in found:
        for line in measured.lines:
            text.append(f"{line.title}\n    {line.shown or '-'} ({line.asked}): {line.verdict}")
            text.append(f"    ours: {line.ours}" + (f"; rival: {line.rival}" if line.rival else ""))
        text += [f"\n{table}" for table in measured.tables]
        if measured.profile:
            text.append(measured.profile)
    return "\n".join(text) + "\n"


def _machine(machine: Machine) -> str:
    return (
        f"Measured on {machine.measured_at:%Y-%m-%d %H:%M} UTC at {machine.commit}: "
        f"{machine.processor}, {machine.cores} processors, {machine.memory:.0f} GB, "
        f"{machine.system}, {machine.disk}; load {machine.busy:.1f} before the start. "
        f"Python {machine.python} ({machine.packages}), PostgreSQL {machine.postgres}.\n"
    )


def _table(found: Found) -> str:
    rows = [
        "| figure | floor or rival in the same run | target | got | | ours, here | rival, here |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    rows += [_row(line) for _, measured in found for line in measured.lines]
    return "\n".join(rows) + "\n"


def _row(line: Line) -> str:
    said = line.verdict.value
    cells = (
        line.title,
        line.against,
        line.asked,
        line.shown,
        f"**{said}**" if line.verdict is Verdict.MISSED else said,
        line.ours,
        line.rival,
    )
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _flowing(text: str) -> str:
    """Paragraphs without the line breaks and the indentation of the source."""
    return "\n\n".join(" ".join(part.split()) for part in text.strip().split("\n\n"))


def _section(figure: Figure, measured: Measured) -> str:
    parts = [
        f"## {figure.title} (`{figure.name}`)\n",
        _flowing(measured.how) + "\n",
    ]
    parts += [f"{table}\n" for table in measured.tables]
    if measured.profile:
        parts.append(f"Where the time goes:\n\n```text\n{measured.profile}\n```\n")
    return "\n".join(parts)
