"""Starting a load, and what it has to say."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from bench.load import Plan, Result
from bench.processes import Process, module
from bench.stage import FigureFailed
from bench.traffic import Message, write_bodies


class Load:
    """A load that is signed, connected and waits."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def run(self, *, answer: str = "202") -> Result:
        """Let it send, and wait for its end. Raises FigureFailed where an answer was another."""
        self._process.tell("go")
        result = Result(**self._process.hear())
        if set(result.statuses) != {answer}:
            raise FigureFailed(f"not all webhooks were accepted: {result.statuses}")
        return result


@contextmanager
def loading(messages: Sequence[Message], plan: Plan, folder: Path) -> Iterator[Load]:
    """A load of messages; the plan's own file of bodies is written here."""
    bodies = write_bodies(messages, folder / "bodies.jsonl")
    path = folder / "plan.json"
    path.write_text(json.dumps(asdict(plan) | {"bodies": str(bodies)}))
    path.chmod(0o600)
    command = module("bench.load", str(path))
    with Process("load", command, folder=folder, talks=True) as process:
        process.hear()
        yield Load(process)
