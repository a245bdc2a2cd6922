"""The error tree of OpenMeter's API client.

    OpenMeterError
    ├── OpenMeterUnreachable   no usable answer, or 408, 425, 429, 5xx: try again later
    ├── OpenMeterRefused       any other status than 200: the same question meets the same answer
    └── OpenMeterMalformed     200, but not an answer to what was asked

All calls are reads, so nothing is ever in doubt. Nothing here holds the API key, and no foreign
exception is chained: those of aiohttp carry the request's headers. Wrong arguments raise
`ValueError` before anything is sent. Pure.
"""

from dataclasses import dataclass

LONGEST_TEXT = 300
TRANSIENT_STATUSES = frozenset({408, 425, 429})

# OpenMeter answers these to "no such customer" and "nothing of Stripe's on it" (404), and to a
# deleted or unlinked customer (412). Only as a problem document: a wrong address gives a bare 404.
_ABSENT_STATUSES = frozenset({404, 412})


class OpenMeterError(Exception):
    """The root. `detail` is safe to show; `status` is that of the answer, if one came."""

    def __init__(self, detail: str, *, status: int | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.status = status


class OpenMeterUnreachable(OpenMeterError):
    """Transient. `retry_after` is what the answer asked for, in whole seconds, at most a day."""

    def __init__(
        self, detail: str, *, status: int | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(detail, status=status)
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class ProblemDocument:
    """What an `application/problem+json` body says: presentable texts of at most 300 characters."""

    title: str | None = None
    detail: str | None = None


class OpenMeterRefused(OpenMeterError):
    """OpenMeter, or something in front of it, refuses. `problem` is `None` where a stranger did."""

    status: int

    def __init__(self, status: int, problem: ProblemDocument | None) -> None:
        texts = (problem.title, problem.detail) if problem else ()
        said = ": ".join(text for text in texts if text)
        super().__init__(
            f"OpenMeter answered HTTP {status}{f' ({said})' if said else ''}", status=status
        )
        self.problem = problem

    @property
    def absent(self) -> bool:
        """Whether OpenMeter itself says that what was asked for is not there."""
        return self.problem is not None and self.status in _ABSENT_STATUSES


class OpenMeterMalformed(OpenMeterError):
    """Garbage, too large, or about something else than was asked. Names paths, never values."""

    def __init__(self, detail: str) -> None:
        super().__init__(f"OpenMeter's answer is malformed: {detail}", status=200)


def presentable(text: str, secret: str | None) -> str:
    """`text` on one line without the key, at most 300 characters."""
    if secret:
        text = text.replace(secret, "[key]")
    line = "".join(char if char.isprintable() else " " for char in text).strip()
    return line if len(line) <= LONGEST_TEXT else line[: LONGEST_TEXT - 1] + "…"
