"""The page and the terminal: a missed target is said, and nothing breaks the table."""

from collections.abc import Awaitable
from datetime import UTC, datetime

from bench.arithmetic import Target, at_least, at_most
from bench.context import Bench
from bench.machine import Machine
from bench.page import render, terse
from bench.result import Figure, Line, Measured
from bench.table import FIGURES

MACHINE = Machine(
    "A processor",
    2,
    24.0,
    "Linux 6",
    "ext4",
    "3.11.7",
    "asyncpg 1",
    "18.4 (fsync on)",
    datetime(2026, 1, 2, 3, 4, tzinfo=UTC),
    0.1,
    "abc1234",
)


def _measure(_: Bench) -> Awaitable[Measured]:
    raise AssertionError("nothing is measured here")


FIGURE = Figure("ingest", "Receiving", _measure)


def _line(got: float | None, target: Target | None, title: str = "webhooks/s") -> Line:
    return Line(title, "pgbench", target, got, "1 /s", "2 /s")


def test_the_table_says_what_was_met_and_what_was_not() -> None:
    lines = (
        _line(0.5, at_least(0.4), "good"),
        _line(2.5, at_most(2), "bad"),
        _line(0.1, None, "only published"),
        _line(None, at_least(1), "not there"),
    )
    page = render(MACHINE, [(FIGURE, Measured(lines, "How."))], quick=False)
    assert "| good | pgbench | at least 0.4 | 0.500 | met | 1 /s | 2 /s |" in page
    assert "| bad | pgbench | at most 2 | 2.50 | **not met** | 1 /s | 2 /s |" in page
    assert "| only published | pgbench | publish | 0.100 | published | 1 /s | 2 /s |" in page
    assert "| not there | pgbench | at least 1 |  | not measured | 1 /s | 2 /s |" in page
    assert "Not met: bad." in page
    assert "A processor, 2 processors, 24 GB" in page
    assert "2026-01-02 03:04 UTC at abc1234" in page


def test_a_page_without_a_miss_speaks_of_none() -> None:
    page = render(MACHINE, [(FIGURE, Measured((_line(1, at_least(1)),), "How."))], quick=False)
    assert "not met" not in page.lower()
    assert "--quick`)" not in page


def test_a_short_try_says_so() -> None:
    page = render(MACHINE, [(FIGURE, Measured((), "How."))], quick=True)
    assert "**A short try (`--quick`)" in page


def test_a_bar_in_a_cell_does_not_divide_it() -> None:
    measured = Measured((_line(1, None, "a | b"),), "How.")
    assert "| a / b | pgbench |" in render(MACHINE, [(FIGURE, measured)], quick=False)


def test_paragraphs_flow_and_a_profile_is_shown_as_it_is() -> None:
    measured = Measured((), "\n  One\n  line.\n\n  Another.\n", profile="  50 %  asyncpg")
    page = render(MACHINE, [(FIGURE, measured)], quick=False)
    assert "\nOne line.\n\nAnother.\n" in page
    assert "```text\n  50 %  asyncpg\n```" in page


def test_the_terminal_is_told_the_same() -> None:
    said = terse([(FIGURE, Measured((_line(2.5, at_most(2)),), "How."))])
    assert "webhooks/s\n    2.50 (at most 2): not met\n    ours: 1 /s; rival: 2 /s\n" in said


def test_every_figure_has_a_name_of_its_own() -> None:
    names = [figure.name for figure in FIGURES]
    assert len(set(names)) == len(names) == 9
