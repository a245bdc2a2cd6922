"""The log under a flood: the first lines of a kind, then how many were left out."""

import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from app.observability.flood import FloodFilter
from app.observability.logs import configure_logs


class Time:
    """A clock that is moved by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def record(text: object, name: str = "app.x") -> logging.LogRecord:
    return logging.LogRecord(name, logging.WARNING, "x.py", 1, text, (), None)


def test_lines_of_a_kind_are_bounded_and_what_was_left_out_is_told() -> None:
    clock = Time()
    flood = FloodFilter(lines=3, seconds=10, monotonic=clock)
    assert [flood.filter(record("down")) for _ in range(8)] == [True] * 3 + [False] * 5
    # Others are not held up by it.
    assert flood.filter(record("up"))
    assert flood.filter(record("down", "app.y"))
    clock.now = 10
    first = record("down")
    assert flood.filter(first)
    assert first.__dict__["left_out"] == 5
    second = record("down")
    assert flood.filter(second)
    assert "left_out" not in second.__dict__


def test_what_was_left_out_is_not_forgotten_however_long_it_is_quiet() -> None:
    clock = Time()
    flood = FloodFilter(lines=1, seconds=10, monotonic=clock)
    assert [flood.filter(record({"event": "e", "n": n})) for n in range(3)] == [True, False, False]
    for clock.now in (10, 20, 30):
        assert flood.filter(record("another"))
    late = record({"event": "e", "n": 9})
    assert flood.filter(late)
    assert late.msg == {"event": "e", "n": 9, "left_out": 2}


def test_a_million_different_texts_are_not_kept() -> None:
    clock = Time()
    flood = FloodFilter(lines=1, seconds=10, monotonic=clock)
    for number in range(1_000):
        flood.filter(record(f"text {number}"))
    clock.now = 10
    flood.filter(record("one"))
    assert len(flood._streams) == 1


@pytest.fixture
def logs_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.mark.usefixtures("logs_as_before")
def test_it_is_in_force_for_both_kinds_of_loggers(capfd: pytest.CaptureFixture[str]) -> None:
    configure_logs(level="info", log_format="json")
    for number in range(500):
        logging.getLogger("app.a").warning("down %d", number)
        structlog.get_logger("app.b").warning("away", number=number)
    written = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [line["event"] for line in written if line["logger"] == "app.a"] == [
        f"down {number}" for number in range(100)
    ]
    assert len(written) == 200
