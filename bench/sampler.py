"""Where a process spends its processor time: a look at its stack every few milliseconds of it.

A tracing profiler (cProfile) makes each call dearer, small ones most: it would show another program
than the one that is measured. A sample costs microseconds, a few hundred times a second.
"""

import atexit
import json
import signal
import sys
from collections import Counter
from pathlib import Path
from types import FrameType

_ALL = ("app.cli:", "app.commands.starting:")  # on every stack
EVERY = 0.003  # seconds of processor time


class Samples:
    """Counts of what was seen: `own` on top of the stack, `within` anywhere on it."""

    def __init__(self) -> None:
        self.seen = 0
        self.own: Counter[str] = Counter()
        self.parts: Counter[str] = Counter()
        self.within: Counter[str] = Counter()

    def take(self, _: int, frame: FrameType | None) -> None:
        """Write down one stack."""
        self.seen += 1
        if frame is None:
            return
        self.own[_name(frame)] += 1
        self.parts[_part(frame)] += 1
        names = set()
        while frame is not None:
            names.add(_name(frame))
            frame = frame.f_back
        self.within.update(names)

    def write(self, path: Path) -> None:
        """Keep the counts as JSON."""
        counts = {
            "seen": self.seen,
            "parts": self.parts.most_common(15),
            "own": self.own.most_common(15),
            "within": [
                (name, count)
                for name, count in self.within.most_common(400)
                if name.startswith("app.") and not name.startswith(_ALL)
            ][:15],
        }
        path.write_text(json.dumps(counts))


def _name(frame: FrameType) -> str:
    return f"{frame.f_globals.get('__name__', '?')}:{frame.f_code.co_qualname}"


def _part(frame: FrameType) -> str:
    """The package at work; of the program itself, its second name too."""
    names = str(frame.f_globals.get("__name__", "?")).split(".")
    return ".".join(names[:2]) if names[0] == "app" else names[0]


def sample_when_told(path: str) -> None:
    """Sample this process from SIGUSR2 on, so without its start; written when it ends."""
    samples = Samples()
    signal.signal(signal.SIGPROF, samples.take)

    def begin(*_: object) -> None:
        signal.setitimer(signal.ITIMER_PROF, EVERY, EVERY)

    signal.signal(signal.SIGUSR2, begin)

    def end() -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        samples.write(Path(path))

    atexit.register(end)


def table(path: Path) -> str:
    """The counts of a file as text: shares of the processor time."""
    counts = json.loads(path.read_text())
    seen = max(counts["seen"], 1)
    text = [f"{seen} samples, one every {EVERY * 1000:g} ms of processor time", ""]
    for heading, name in (
        ("by package, its own time", "parts"),
        ("by function, its own time", "own"),
        ("within our functions, all that they call included", "within"),
    ):
        text.append(heading)
        text += [f"  {count / seen:6.1%}  {what}" for what, count in counts[name]]
        text.append("")
    return "\n".join(text).rstrip()


if __name__ == "__main__":
    sys.stdout.write(table(Path(sys.argv[1])) + "\n")
