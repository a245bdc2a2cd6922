"""The harness of the recipe's figure: what is sent, what is done to the receivers, what is lost."""

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from app.commands.outgoing import OutgoingWindow
from bench.account import item_of
from bench.traffic import Message

HOUR = timedelta(hours=1)
HOURS = 4  # in each message, of two groups each
GROUPS = ("gpt-4", "gpt-4o")
EACH = 6
SUBJECTS = 20  # of each case
# Calls a second of each endpoint, above which Stripe answers 429: four times what it allows, so
# that the harness takes a fourth of the time.
LIMIT = 100
# Of all usage-record calls. The cuts come after Stripe has executed the call.
FAULTS: Sequence[Mapping[str, object]] = (
    {"kind": "cut", "when": "after_execution", "probability": 0.05, "seed": 1, "times": None},
    {"kind": "lock_timeout", "probability": 0.05, "seed": 2, "times": None},
)
# Seconds after the first webhook at which the receiver is killed, and started again.
KILLS = (0.5, 2.0)


@dataclass(frozen=True, slots=True)
class Case:
    """A kind of customers. `paired`: two subjects pay by one item; `corrected`: every message is
    followed by one that corrects all its values."""

    name: str
    title: str
    paired: bool = False
    corrected: bool = False

    def subscription(self, number: int) -> str:
        """Who pays for the subject of a number."""
        return f"sub_{self.name}_{number // 2 if self.paired else number:02d}"

    def subject(self, number: int) -> str:
        """The subject of a number."""
        return f"{self.name}-{number:02d}"


CASES = (
    Case("plain", "one subject on an item, two groups"),
    Case("paired", "two subjects on an item", paired=True),
    Case("corrected", "each message corrected by the next", corrected=True),
)


def subscriptions() -> dict[str, str]:
    """Subject -> subscription, of all cases."""
    return {
        case.subject(number): case.subscription(number)
        for case in CASES
        for number in range(SUBJECTS)
    }


def messages(since: datetime) -> list[Message]:
    """All messages, in the order in which they are written."""
    dice = random.Random(11)  # noqa: S311 - the same every time
    return [
        message
        for turn in range(EACH)
        for case in CASES
        for number in range(SUBJECTS)
        for message in _of_one(case, case.subject(number), since + turn * HOURS * HOUR, dice)
    ]


def _of_one(case: Case, subject: str, since: datetime, dice: random.Random) -> Iterator[Message]:
    for _ in range(2 if case.corrected else 1):
        yield Message(
            subject,
            tuple(
                OutgoingWindow(
                    Decimal(dice.randint(1, 999)),
                    since + hour * HOUR,
                    since + (hour + 1) * HOUR,
                    {"model": group},
                )
                for hour in range(HOURS)
                for group in GROUPS
            ),
        )


@dataclass(frozen=True, slots=True)
class Account:
    """What a case's items must hold, and how far they are from it, in units."""

    owed: int
    lost: int
    doubled: int


def settle(sent: Sequence[Message], held: Mapping[str, int]) -> dict[str, Account]:
    """An independent account of what was sent, against what Stripe holds (item -> units), by case.

    Of a window that was sent again the last value counts.
    """
    payers = subscriptions()
    values: dict[tuple[str, datetime, str], int] = {}
    for message in sent:
        for window in message.windows:
            group = window.group_by.get("model", "")
            values[message.subject, window.window_start, group] = int(window.value)
    owed: Counter[str] = Counter()
    for (subject, _, _), value in values.items():
        owed[item_of(payers[subject])] += value
    found = {}
    for case in CASES:
        items = {item_of(case.subscription(number)) for number in range(SUBJECTS)}
        missing = [owed[item] - held.get(item, 0) for item in items]
        found[case.title] = Account(
            sum(owed[item] for item in items),
            sum(units for units in missing if units > 0),
            -sum(units for units in missing if units < 0),
        )
    return found
