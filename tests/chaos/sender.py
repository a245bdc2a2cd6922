"""A sender that behaves as Svix does: until 2xx, with new timestamps, resends, in no order."""

import asyncio
import random
from collections import Counter
from collections.abc import Sequence

import httpx

from tests.chaos.account import Account
from tests.chaos.messages import Message, headers, new_secret

# Svix waits 5 s, 5 min, 30 min, ...: the same, in a hurry.
RETRIES_AFTER = (0.2, 0.5, 1.0, 2.0)
JITTER = 0.2
TIMEOUT = 15.0
TAKEN = (200, 202)
# No answer; not available; and what a process that is just started or stopped may say.
EXPECTED = frozenset({0, 503, *TAKEN})


class Sender:
    """Sends to all addresses in turn, and tells the account what was accepted."""

    def __init__(self, urls: Sequence[str], account: Account, dice: random.Random) -> None:
        self._urls = list(urls)
        self._account = account
        self._dice = dice
        self._http = httpx.AsyncClient(trust_env=False, timeout=TIMEOUT)
        self._turn = 0
        self.secrets = [new_secret(dice)]
        self.accepted: list[Message] = []
        self.answers: Counter[int] = Counter()
        self.done: Counter[str] = Counter()
        self.unexpected: Counter[str] = Counter()

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def deliver(self, message: Message) -> None:
        """Attempt after attempt, until it is accepted. Ends by being cancelled otherwise."""
        attempts = 0
        while await self._once(message) not in TAKEN:
            wait = RETRIES_AFTER[min(attempts, len(RETRIES_AFTER) - 1)]
            await asyncio.sleep(wait * self._dice.uniform(1 - JITTER, 1 + JITTER))
            attempts += 1
            self.done["retries"] += 1
        self.accepted.append(message)
        self._account.tell(message.order, message.report.values)

    async def deliver_twice_at_once(self, message: Message) -> None:
        """As after a timeout whose request was alive: both addresses have it."""
        self.done["sent twice at once"] += 1
        await asyncio.gather(self._once(message), self.deliver(message))

    async def resend(self, message: Message, url: str | None = None) -> int:
        """An accepted message once more, by hand: same id, new timestamp; the status."""
        self.done["resends"] += 1
        return await self._once(message, url)

    async def forge(self, message: Message) -> None:
        """Somebody without the secret sends a message, once: it must count for nothing."""
        self.done["forged"] += 1
        status = await self._post(message, [new_secret(self._dice)], self._next_url())
        if status not in (0, 401, 503):
            self.unexpected[f"{status} to a forged message"] += 1

    async def _once(self, message: Message, url: str | None = None) -> int:
        status = await self._post(message, self.secrets, url or self._next_url())
        self.answers[status] += 1
        if status not in EXPECTED:
            self.unexpected[f"{status} to a message that is in order"] += 1
        return status

    async def _post(self, message: Message, secrets: Sequence[str], url: str) -> int:
        try:
            answer = await self._http.post(
                f"{url}/webhooks/openmeter",
                content=message.body,
                headers=headers(message, secrets),
            )
        except httpx.HTTPError:
            return 0
        return answer.status_code

    def _next_url(self) -> str:
        self._turn += 1
        return self._urls[self._turn % len(self._urls)]
