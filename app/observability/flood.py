"""A defect or an attack that logs without end: the first lines, then a count."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

LINES = 100
SECONDS = 10.0


@dataclass(slots=True)
class _Stream:
    lines: int = 0
    left_out: int = 0


class FloodFilter(logging.Filter):
    """Passes `lines` lines of one kind in `seconds`; the next that passes says how many did not.

    A kind is a logger with the constant text of its message. Errors pass like the rest: a line of
    them that comes a thousand times a second says nothing after the first hundred.
    """

    def __init__(
        self,
        *,
        lines: int = LINES,
        seconds: float = SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._lines = lines
        self._seconds = seconds
        self._monotonic = monotonic
        self._until = 0.0
        self._streams: dict[tuple[str, str], _Stream] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is to be written."""
        now = self._monotonic()
        if now >= self._until:
            self._until = now + self._seconds
            # Those that were cut keep their count; the others are forgotten: this stays small.
            self._streams = {
                kind: _Stream(left_out=stream.left_out)
                for kind, stream in self._streams.items()
                if stream.left_out
            }
        message = record.msg
        text = str(message.get("event")) if isinstance(message, dict) else str(message)
        stream = self._streams.setdefault((record.name, text), _Stream())
        stream.lines += 1
        if stream.lines > self._lines:
            stream.left_out += 1
            return False
        if stream.left_out:
            self._say(record, stream.left_out)
            stream.left_out = 0
        return True

    @staticmethod
    def _say(record: logging.LogRecord, left_out: int) -> None:
        if isinstance(record.msg, dict):
            record.msg = {**record.msg, "left_out": left_out}
        else:
            record.left_out = left_out
