"""A sender like Svix, and an account of what it sent that shares no code with the program."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import httpx

from app.commands.outgoing import OutgoingWindow, message_id, report_body, signed_headers
from tests.acceptance.processes import DEADLINE

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwAAAAAAAA"
METER = "ai_prompt_tokens"
HOUR = timedelta(hours=1)
# Hours that are all over, in the current period of every subscription of the tests.
BEGIN = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - 48 * HOUR


@dataclass(frozen=True)
class Usage:
    """So much usage of a subject in an hour (counted from `BEGIN`), in one group."""

    subject: int
    hour: int
    value: int
    model: str = "gpt-4"


@dataclass(frozen=True)
class Message:
    """One webhook: a body under one id, however often it is sent."""

    svix_id: str
    body: bytes
    usage: tuple[Usage, ...]


def message(*usage: Usage) -> Message:
    """A report on one subject."""
    [subject] = {entry.subject for entry in usage}
    windows = [
        OutgoingWindow(
            Decimal(entry.value),
            BEGIN + entry.hour * HOUR,
            BEGIN + (entry.hour + 1) * HOUR,
            {"model": entry.model},
        )
        for entry in usage
    ]
    body = report_body(meter=METER, subject=f"customer-{subject}", windows=windows)
    # Ids of one process are made in order, and the clock inside them has steps of 4 ms.
    time.sleep(0.005)
    return Message(message_id(), body, usage)


@dataclass
class Sender:
    """Sends each message until it is answered 2xx: same id, new timestamp and signature."""

    urls: list[str]
    sent: list[Message] = field(default_factory=list)
    statuses: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))

    async def deliver(self, messages: Iterable[Message], *, at_once: int = 1) -> None:
        """Deliver messages, `at_once` at a time; in order, where it is one."""
        gate = asyncio.Semaphore(at_once)
        async with httpx.AsyncClient(trust_env=False, timeout=15) as client:

            async def one(entry: Message) -> None:
                async with gate:
                    await self._until_taken(client, entry)

            await asyncio.gather(*(one(entry) for entry in messages))

    async def resend(self, entry: Message, times: int) -> list[int]:
        """Send one message many times at once, over all URLs; returns the answers."""
        async with httpx.AsyncClient(trust_env=False, timeout=15) as client:
            return list(
                await asyncio.gather(*(self.once(client, entry, url=n) for n in range(times)))
            )

    async def _until_taken(self, client: httpx.AsyncClient, entry: Message) -> None:
        self.sent.append(entry)
        deadline = time.monotonic() + DEADLINE
        attempt = 0
        while True:
            status = await self.once(client, entry, url=attempt)
            self.statuses[entry.svix_id].append(status)
            if 200 <= status < 300:
                return
            assert status in (0, 503), f"{entry.svix_id} was answered {status}"
            assert time.monotonic() < deadline, f"{entry.svix_id} was never taken"
            attempt += 1
            await asyncio.sleep(0.05)

    async def once(self, client: httpx.AsyncClient, entry: Message, *, url: int = 0) -> int:
        """One attempt; the status, or 0 where no answer came."""
        headers = signed_headers(SECRET, entry.svix_id, entry.body)
        try:
            answer = await client.post(
                self.urls[url % len(self.urls)], content=entry.body, headers=headers
            )
        except httpx.HTTPError:
            return 0
        return answer.status_code


def account(sent: Sequence[Message], *, items: dict[int, str]) -> dict[str, dict[int, int]]:
    """What must stand at Stripe: item -> second -> quantity, from nothing but what was sent.

    The newest message of a window counts; groups, and subjects that share an item, add up. `items`
    says which item pays for a subject.
    """
    newest: dict[tuple[int, int, str], int] = {}
    for entry in sent:
        for usage in entry.usage:
            newest[usage.subject, usage.hour, usage.model] = usage.value
    standing: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for (subject, hour, _), value in newest.items():
        second = int((BEGIN + (hour + 1) * HOUR).timestamp()) - 1
        standing[items[subject]][second] += value
    return {item: dict(seconds) for item, seconds in standing.items()}
