"""Answers as they leave, and the faults that take their place."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

JSON = "application/json"
PROBLEM = "application/problem+json"

FaultKind = Literal["answer", "hang", "reset"]


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer."""

    status: int
    body: bytes
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)


def json_answer(value: Any) -> Answer:
    """200 with a document."""
    return Answer(200, json.dumps(value).encode())


def problem(status: int, title: str, detail: str, **headers: str) -> Answer:
    """An error as OpenMeter tells it."""
    document = {
        "type": "about:blank",
        "title": title,
        "status": status,
        "detail": detail,
        "instance": "urn:request:local/stand-in-000001",
    }
    return Answer(status, json.dumps(document).encode(), PROBLEM, headers)


@dataclass(slots=True)
class Fault:
    """Something that happens instead of an answer, `times` times or until healed.

    `hang` keeps the request until the client leaves (in-process: a timeout at once), `reset` cuts
    the connection. `path` is a part of the paths it meets.
    """

    kind: FaultKind = "answer"
    answer: Answer | None = None
    path: str = ""
    times: int | None = None
    met: int = 0

    def meets(self, path: str) -> bool:
        """Whether it happens to this request; counts it."""
        if self.path not in path or (self.times is not None and self.met >= self.times):
            return False
        self.met += 1
        return True


def unavailable() -> Answer:
    """What OpenMeter says while its database is away."""
    return problem(503, "Service Unavailable", "database is not available")


def unauthorized() -> Answer:
    """What OpenMeter says to a wrong key."""
    return problem(401, "Unauthorized", "invalid token")
