"""Everything that runs: PostgreSQL, the sandbox, two `serve`, two `worker`, and their clocks."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx

from tests.chaos.changes import Change
from tests.chaos.clocks import ClockFile
from tests.chaos.database import Database
from tests.chaos.launching import Launcher
from tests.chaos.mappings import Mappings
from tests.chaos.replica import Replica
from tests.chaos.stripe import Stripe
from tests.chaos.world import STEP, World
from tests.ports import free_port

STRIPE_KEY = "sk_test_sandbox"
TOKEN = "an-admin-token-of-the-harness"
REFUSED_FOR_NOW: Final = (409, 503)
"""What a mapping change is answered while the database is away, or a record is held."""

SETTINGS: Final = {
    "STRIPE_RATE_LIMIT": "500",
    "STRIPE_TIMEOUT": "2",
    "STRIPE_IN_FLIGHT": "16",
    "DISPATCH_LINGER": "0.2",
    "SNAPSHOT_MAX_AGE": "21600",
    "SHUTDOWN_GRACE": "10",
}
"""What is not as by default: the report tells them, as recoveries depend on them."""

MAPPED_WITHIN = 120.0
KEPT_EVERY = 0.2


class Plant:
    """Starts and ends processes; all are gone after `end`."""

    def __init__(self, folder: Path, database: Database, launcher: Launcher) -> None:
        self.folder = folder
        self._launcher = launcher
        self.database = database
        self.secrets: list[str] = []
        self.mappings = Mappings()
        self._clock = ClockFile(folder / "world.clock")
        self._ahead = 0
        self.turn = asyncio.Lock()
        """Held by what moves the clock or changes mappings: one at a time."""
        self.sandbox = self._replica("sandbox", "sandbox", port=True)
        self.stripe = Stripe(self.sandbox.url or "")
        self.serves = [
            self._replica("serve-1", "serve", port=True),
            self._replica("serve-2", "serve", "--no-worker", port=True),
        ]
        self.workers = [self._replica(f"worker-{n}", "worker") for n in (1, 2)]

    def _replica(self, name: str, *words: str, port: bool = False) -> Replica:
        number = free_port() if port else None
        return Replica(
            name,
            [*words, *(["--port", str(number)] if port else [])],
            folder=self.folder,
            world_clock=self._clock,
            settings=self._settings,
            launcher=self._launcher,
            url=f"http://127.0.0.1:{number}" if port else None,
        )

    def _settings(self) -> dict[str, str]:
        return {
            "DATABASE_URL": self.database.address,
            "OPENMETER_WEBHOOK_SECRETS": ",".join(self.secrets),
            "STRIPE_API_KEY": STRIPE_KEY,
            "STRIPE_API_BASE": self.stripe.url,
            "ADMIN_TOKENS": TOKEN,
            "LOG_FORMAT": "text",
            **SETTINGS,
        }

    @property
    def replicas(self) -> list[Replica]:
        """The processes of the program under test."""
        return [*self.serves, *self.workers]

    @property
    def booking(self) -> list[Replica]:
        """Those that book and send."""
        return [replica for replica in self.replicas if replica.works]

    @property
    def now(self) -> int:
        """The time of this world, Unix seconds."""
        return int(time.time()) + self._ahead

    @property
    def moved(self) -> int:
        """How many seconds the clock was moved in all."""
        return self._ahead

    async def start(self, world: World) -> None:
        """Start everything, make what the world has at Stripe, apply its mappings."""
        await self.database.start()
        self.sandbox.start()
        await self.sandbox.answering("/_sandbox/clock")
        control = self.stripe.control
        await control("PATCH", "/settings", {"limit_per_second": 0})
        await control("POST", "/customers", {"id": "cus_1"})
        for price in world.prices():
            await control("POST", "/prices", price)
        for customer in world.customers:
            await control("POST", "/subscriptions", customer.draft())
        for replica in self.replicas:
            replica.start()
        await asyncio.gather(*(s.answering("/readyz/receive") for s in self.serves))
        await self._apply(world.mappings)

    async def keep(self) -> None:
        """Look after the processes, until cancelled: one ends when it finds no database to start
        with."""
        while True:
            for replica in self.replicas:
                replica.keep()
            await asyncio.sleep(KEPT_EVERY)

    async def change(self, change: Change) -> None:
        """Apply a change of the mappings, however long it takes; hold `turn`."""
        await self._apply(change.part(self.mappings, self.now))

    async def _apply(self, part: Mappings) -> None:
        # Told to one process after the other, until one says that it is done: it is idempotent.
        deadline = time.monotonic() + MAPPED_WITHIN
        answer = None
        async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
            for url in self._in_turn():
                assert time.monotonic() < deadline, f"mappings not applied: {answer}"
                try:
                    response = await client.put(
                        f"{url}/v1/mappings",
                        json=part.document(),
                        headers={"Authorization": f"Bearer {TOKEN}"},
                    )
                except httpx.HTTPError as error:
                    answer = repr(error)
                else:
                    if response.is_success:
                        break
                    answer = response.text
                    assert response.status_code in REFUSED_FOR_NOW, answer
                await asyncio.sleep(0.2)
        self.mappings.meters |= part.meters
        self.mappings.subjects |= part.subjects

    def _in_turn(self) -> Iterator[str]:
        while True:
            for serve in self.serves:
                yield serve.url or ""

    async def summary(self) -> dict[str, Any] | None:
        """`GET /v1/summary` of any `serve`; None while none answers."""
        async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
            for serve in self.serves:
                try:
                    answer = await client.get(
                        f"{serve.url}/v1/summary", headers={"Authorization": f"Bearer {TOKEN}"}
                    )
                except httpx.HTTPError:
                    continue
                if answer.is_success:
                    found: dict[str, Any] = answer.json()
                    return found
        return None

    async def clock_forward(self) -> None:
        """All clocks go on by a step; hold `turn`. Stripe's first: nothing is in its future."""
        self._ahead += STEP
        await self.stripe.put_clock(self.now)
        self._clock.put(self._ahead)

    async def end(self) -> None:
        """Leave nothing behind."""
        for replica in (*self.replicas, self.sandbox):
            replica.end()
        await self.stripe.close()
        await self.database.stop()

    def logs(self) -> str:
        """The ends of all logs."""
        return "\n".join(
            f"--- {replica.name}, started {replica.starts} times\n{replica.tail()}"
            for replica in (*self.replicas, self.sandbox)
        )
