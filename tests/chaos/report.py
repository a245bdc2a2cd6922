"""A run in words: for the terminal, and as docs/reliability.md."""

import os
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median

from tests.chaos.kinds import KINDS
from tests.chaos.launching import forked
from tests.chaos.outcome import Outcome
from tests.chaos.plant import SETTINGS

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
TEMPLATE = Path(__file__).with_name("reliability.template.md")


def processor() -> str:
    """The machine's processor, as far as it tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return (models or [platform.processor() or platform.machine()])[0]


def table_of_faults(outcome: Outcome) -> list[list[str]]:
    """Kind, words, injected, requests met, median and worst recovery in seconds."""
    found = outcome.recoveries
    rows = []
    for name, kind in KINDS.items():
        if not found.injected[name]:
            continue
        # A database restart has two: until webhooks are taken, and until records are reported.
        parts = {
            key.partition(": ")[2]: seconds
            for key, seconds in found.seconds.items()
            if key.partition(": ")[0] == name and seconds
        } or {"": []}
        for number, (part, seconds) in enumerate(sorted(parts.items())):
            first = number == 0
            rows.append(
                [
                    name if first else "",
                    kind.words if first else "",
                    str(found.injected[name]) if first else "",
                    str(found.met[name]) if first else "",
                    f"{part} {median(seconds):.1f} s".strip() if seconds else "",
                    f"{max(seconds):.1f} s" if seconds else "",
                ]
            )
    return rows


HEAD = ["kind", "what it is", "injected", "met", "median recovery", "worst"]


def summary(outcome: Outcome) -> list[tuple[str, str]]:
    """The figures of the comparison."""
    verdict = outcome.verdict
    parked = ", ".join(f"{count:,} `{why}`" for why, count in sorted(verdict.parked.items()))
    return [
        ("seed", str(outcome.options.seed)),
        ("faults injected", f"{outcome.recoveries.injected.total():,}"),
        ("windows accepted", f"{verdict.windows:,}"),
        ("messages", f"{outcome.messages:,}"),
        ("units owed", f"{verdict.units:,}"),
        ("units at Stripe", f"{verdict.at_stripe:,}"),
        ("units lost", f"{verdict.lost:,}"),
        ("units doubled", f"{verdict.doubled:,}"),
        ("units billed before their time", f"{verdict.early:,}"),
        ("windows unaccounted for", f"{verdict.unaccounted:,}"),
        ("windows parked, as they must be", parked or "0"),
        ("calls executed by Stripe", f"{verdict.calls:,}"),
        ("of them twice under one key", f"{verdict.twice:,}"),
        ("starts of the program's processes", f"{outcome.starts:,}"),
        ("the clock was moved by", f"{outcome.moved // 3600} hours"),
        ("duration", f"{outcome.seconds:.0f} s"),
    ]


def text(outcome: Outcome) -> str:
    """For the terminal."""
    lines = ["", *_columns([HEAD, *table_of_faults(outcome)]), ""]
    lines += [f"{name}: {value}" for name, value in summary(outcome)]
    lines += [f"{what}: {count:,}" for what, count in sorted(outcome.sent.items())]
    answers = ", ".join(f"{n:,} x {s or 'none'}" for s, n in sorted(outcome.answers.items()))
    lines += [f"answers to webhooks: {answers}"]
    skipped = outcome.recoveries.skipped
    lines += [f"not injected, for want of an occasion: {dict(skipped)}"] if skipped else []
    lines += [f"WRONG: {finding}" for finding in (*outcome.verdict.findings, *outcome.trouble)]
    lines += [
        "nothing lost, nothing doubled, nothing unaccounted for" if outcome.clean else "FAILED"
    ]
    return "\n".join(lines)


def page(outcome: Outcome) -> str:
    """docs/reliability.md."""
    options = outcome.options
    machine = (
        f"{processor()}, {os.cpu_count()} processors, {platform.system()} {platform.machine()}; "
        f"Python {platform.python_version()}, PostgreSQL {outcome.postgresql}"
    )
    command = (
        f'make chaos ARGS="--seed {options.seed} --faults {options.faults} '
        f"--windows {options.windows} --minutes {options.within / 60:g}"
        f'{" --forks" if options.launcher is forked else ""}"'
    )
    sent = outcome.sent
    return TEMPLATE.read_text().format(
        command=command,
        settings=", ".join(f"`{name}={value}`" for name, value in SETTINGS.items()),
        machine=machine,
        figures=_markdown(["", ""], [[name, value] for name, value in summary(outcome)]),
        faults=_markdown(
            HEAD, [[f"`{row[0]}`" if row[0] else "", *row[1:]] for row in table_of_faults(outcome)]
        ),
        verdict="Nothing was lost, doubled, or unaccounted for."
        if outcome.clean
        else "**Something is wrong:** " + "; ".join((*outcome.verdict.findings, *outcome.trouble)),
        down=options.lengths.down,
        retries=sent.get("retries", 0),
        resends=sent.get("resends", 0),
        twice=sent.get("sent twice at once", 0),
        overtaken=sent.get("overtaken", 0),
        forged=sent.get("forged", 0),
    )


def _markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
