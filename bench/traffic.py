"""What the senders send: usage reports of as many subjects as wanted. Pure, the same every time."""

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

from app.commands import outgoing
from app.commands.outgoing import OutgoingWindow

METER = "api_calls"
WINDOWS = 8
MINUTE = timedelta(minutes=1)
# All subscriptions began so long ago, at a midnight: shorter than any month, so all that is sent
# lies in the period that is open.
BEGAN = timedelta(days=20)


@dataclass(frozen=True, slots=True)
class Message:
    """A usage report before it is signed."""

    subject: str
    windows: tuple[OutgoingWindow, ...]

    def body(self) -> bytes:
        """The raw body. It has no line break."""
        return outgoing.report_body(meter=METER, subject=self.subject, windows=self.windows)


def subject_name(number: int) -> str:
    """The subject of a number."""
    return f"customer-{number:05d}"


def began() -> datetime:
    """The midnight (UTC) on which the subscriptions of this run began."""
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return today - BEGAN


def reports(
    *,
    subjects: int,
    each: int,
    since: datetime,
    windows: int = WINDOWS,
    length: timedelta = MINUTE,
) -> Iterator[Message]:
    """`each` reports of every subject in turns: windows of one `length`, one after the other."""
    dice = random.Random(42)  # noqa: S311 - the same every time
    for turn in range(each):
        for number in range(subjects):
            first = since + turn * windows * length
            yield Message(
                subject_name(number),
                tuple(
                    OutgoingWindow(
                        Decimal(dice.randint(1, 9_999)),
                        first + step * length,
                        first + (step + 1) * length,
                    )
                    for step in range(windows)
                ),
            )


def units(messages: Iterable[Message]) -> Counter[str]:
    """What each subject owes for messages whose windows all differ."""
    owed: Counter[str] = Counter()
    for message in messages:
        owed[message.subject] += int(sum(window.value for window in message.windows))
    return owed


def write_bodies(messages: Sequence[Message], path: Path) -> Path:
    """One body a line, for a sender to read."""
    path.write_bytes(b"\n".join(message.body() for message in messages))
    return path
