"""`python -m bench [FIGURE …]`: measures, tells, and writes the page."""

import argparse
import asyncio
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import asyncpg

from app.observability.logs import configure_logs
from bench import machine, page
from bench.context import Bench
from bench.database import open_server
from bench.processes import PROJECT, ProcessFailed
from bench.result import Figure, Line, Measured
from bench.stage import FigureFailed
from bench.table import FIGURES

PAGE = PROJECT / "docs" / "performance.md"
ROWS = 10_000_000
_IN_MEMORY = ("tmpfs", "ramfs")


def _arguments() -> argparse.ArgumentParser:
    names = ", ".join(figure.name for figure in FIGURES)
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure the bridge beside floors and rivals, as ratios. Without figures: all "
        "of them, and docs/performance.md is written anew.",
    )
    parser.add_argument("figures", nargs="*", metavar="FIGURE", help=f"of: {names}")
    parser.add_argument("--quick", action="store_true", help="a short try, once: figures are rough")
    parser.add_argument(
        "--rows", type=int, default=None, help=f"of the figure `volume` (default {ROWS:,})"
    )
    parser.add_argument("--page", type=Path, help="write the page there, whatever was measured")
    parser.add_argument(
        "--profile",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="show where the time goes in figures that miss their target",
    )
    return parser


def _chosen(names: Sequence[str]) -> tuple[Figure, ...]:
    known = {figure.name: figure for figure in FIGURES}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise SystemExit(f"no such figure: {', '.join(unknown)}; there are {', '.join(known)}")
    return tuple(figure for figure in FIGURES if not names or figure.name in names)


class _Teller:
    """Progress lines with the time since the start."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def of(self, figure: str, text: str) -> None:
        """Say something of a figure."""
        seconds = time.monotonic() - self._began
        sys.stdout.write(f"{seconds:6.1f} s  {figure}: {text}\n")
        sys.stdout.flush()


async def _attempted(figure: Figure, bench: Bench) -> Measured:
    """A figure; one that fails is a line that says so, and the others are measured."""
    try:
        return await figure.measure(bench)
    except (FigureFailed, ProcessFailed, asyncpg.PostgresError) as failure:
        bench.say(str(failure))
        said = str(failure).splitlines()[0]
        line = Line(figure.title, "", None, None, f"could not be measured: {said}")
        return Measured((line,), "It could not be measured.", failed=True)


async def _measure(
    figures: Sequence[Figure], options: argparse.Namespace, folder: Path
) -> tuple[machine.Machine, list[tuple[Figure, Measured]]]:
    say = _Teller()
    rows = options.rows or (ROWS // 100 if options.quick else ROWS)
    async with open_server(folder / "postgres") as server:
        seen = machine.look(folder, await server.version())
        if seen.disk in _IN_MEMORY:
            raise SystemExit(
                f"{folder} is in memory ({seen.disk}), where fsync costs nothing: name a folder on "
                "a disk with TMPDIR"
            )
        found = []
        for figure in figures:
            say.of(figure.name, figure.title)
            bench = Bench(
                server,
                folder,
                quick=options.quick,
                rows=rows,
                profile=options.profile,
                say=partial(say.of, figure.name),
            )
            measured = await _attempted(figure, bench)
            for line in measured.lines:
                said = f"{line.shown or '-'}, {line.asked}: {line.verdict}"
                say.of(figure.name, f"{line.title}: {said}")
            found.append((figure, measured))
    return seen, found


def main() -> int:
    """Measure what was asked for. Returns the exit code: 1 where that could not be done."""
    options = _arguments().parse_args()
    figures = _chosen(options.figures)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # given up: clean up as Ctrl-C does
    configure_logs(level="warning", log_format="text", secrets=[])
    with tempfile.TemporaryDirectory(
        prefix="meterbridge-bench-", ignore_cleanup_errors=True
    ) as name:
        folder = Path(name)
        if os.geteuid() == 0:
            folder.chmod(0o711)  # PostgreSQL runs as another user, who must pass through
        try:
            seen, found = asyncio.run(_measure(figures, options, folder))
        except KeyboardInterrupt:
            return 130
    text = page.render(seen, found, quick=options.quick)
    whole = figures == FIGURES and not options.quick
    target = options.page or (PAGE if whole else None)
    if target is None:
        sys.stdout.write("\n" + page.terse(found))
    else:
        target.write_text(text, encoding="utf-8")
        sys.stdout.write(f"\nwritten: {target}\n")
    return 1 if any(measured.failed for _, measured in found) else 0


if __name__ == "__main__":
    sys.exit(main())
