"""A sender as Svix is one: what is not answered 2xx is sent again, later, with a new signature.

The schedule is Svix's, a thousand times as fast: 5 s, 5 min, 30 min, 2 h, … would take a day.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import httpx

from app.commands.outgoing import message_id, signed_headers
from app.stripe_client.transport import open_transport
from bench.traffic import Message

# Seconds until the next attempt; the last one repeats until it is delivered.
DELAYS = (0.005, 0.3, 1.0, 2.0, 4.0)
MOST_ATTEMPTS = 40
AT_ONCE = 16
_STEP = 0.004


@dataclass(frozen=True, slots=True)
class Sent:
    """How it went: messages, attempts in all, and messages that were given up."""

    messages: int
    attempts: int
    given_up: int


async def send_all(
    messages: Sequence[Message], *, url: Callable[[], str], secret: str, first_at: float
) -> Sent:
    """Send all: first attempts in order, `AT_ONCE` at a time; a later attempt holds nothing up.

    `url` is asked each time: a handler that was killed comes back elsewhere. The messages were
    written one after the other from `first_at` (Unix seconds) on.
    """
    dice = random.Random(7)  # noqa: S311 - jitter
    free = asyncio.Semaphore(AT_ONCE)
    async with httpx.AsyncClient(
        transport=open_transport(max_connections=AT_ONCE), timeout=15.0
    ) as client:

        async def attempt(svix_id: str, body: bytes) -> bool:
            headers = signed_headers(secret, svix_id, body)
            try:
                answer = await client.post(
                    f"{url()}/webhooks/openmeter", content=body, headers=headers
                )
            except httpx.TransportError:
                return False
            return answer.is_success

        async def deliver(number: int, message: Message) -> int:
            """The attempts it took; 0 where it was given up."""
            svix_id, body = message_id(first_at + number * _STEP), message.body()
            for so_far in range(MOST_ATTEMPTS):
                async with free:
                    delivered = await attempt(svix_id, body)
                if delivered:
                    return so_far + 1
                delay = DELAYS[min(so_far, len(DELAYS) - 1)]
                await asyncio.sleep(delay * dice.uniform(0.8, 1.2))
            return 0

        took = await asyncio.gather(*(deliver(n, message) for n, message in enumerate(messages)))
    given_up = took.count(0)
    return Sent(len(messages), sum(took) + given_up * MOST_ATTEMPTS, given_up)
