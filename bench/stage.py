"""A figure's stage: a fresh database, a sandbox and the program, each a process of its own."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from app.clock import SystemClock
from app.commands.demo_children import free_port
from app.commands.demo_http import LocalApi, NoAnswer, Refused
from app.commands.demo_stage import webhook_secret
from app.config import Settings
from app.db import create_engine, database_url
from app.mapping.file import from_yaml, to_mappings
from app.mapping.repository import MappingRepository
from app.mapping.snapshots import Snapshots, read_from_stripe
from app.stripe_client import StripeClient
from bench.account import Account
from bench.context import Bench
from bench.database import Database
from bench.processes import Process, program
from bench.traffic import began

_LISTENING = "Stripe sandbox listening on "
_READS_AT_ONCE = 16
# Each is answered by a partial index, however many rows there are.
_LEFT = """
    select exists (select from deliveries where state = 'received'),
           exists (select from usage_windows where state = 'pending'),
           exists (select from usage_records where state = 'due')
"""


def no_limit() -> str:
    """The greatest STRIPE_RATE_LIMIT that the settings take."""
    bounds = [
        getattr(rule, "le", None) for rule in Settings.model_fields["stripe_rate_limit"].metadata
    ]
    return f"{next(bound for bound in bounds if bound is not None):g}"


class FigureFailed(Exception):
    """A figure could not be measured, or what was measured was not right; the message says why."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Where a figure is measured. What it starts ends with it, the newest first."""

    bench: Bench
    folder: Path
    stack: ExitStack
    database: Database
    sandbox: Process
    account: Account
    stripe_url: str
    secret: str = field(default_factory=webhook_secret, repr=False)
    stripe_key: str = field(default="", repr=False)

    def settings(self, **more: str) -> dict[str, str]:
        """The environment of the program on this stage."""
        return {
            "DATABASE_URL": self.database.url,
            "OPENMETER_WEBHOOK_SECRETS": self.secret,
            "STRIPE_API_KEY": self.stripe_key,
            "STRIPE_API_BASE": self.stripe_url,
            "STRIPE_RATE_LIMIT": no_limit(),
            "LOG_LEVEL": "warning",
            **more,
        }

    def start(self, process: Process) -> Process:
        """Have a process end with the stage."""
        return self.stack.enter_context(process)

    def serve(self, *, with_worker: bool, profile: Path | None = None, **more: str) -> "Service":
        """Start `meterbridge serve`, and wait until it answers."""
        port = free_port()
        arguments = ["serve", "--port", str(port), *([] if with_worker else ["--no-worker"])]
        process = self._program(arguments, profile, more)
        api = LocalApi(f"http://127.0.0.1:{port}")

        def answers() -> bool | None:
            try:
                api.call("GET", "/healthz")
            except (NoAnswer, Refused):
                return None
            return True

        process.until(answers, what="starting")
        if profile is not None:
            process.begin_samples()
        return Service(process, api.url)

    def worker(self, number: int = 0, *, profile: Path | None = None, **more: str) -> Process:
        """Start `meterbridge worker`."""
        return self._program(["worker"], profile, more, name=f"worker-{number}")

    async def know_all(self, *, record_per: str) -> None:
        """Have all mappings and every subscription's snapshot in the database.

        As after a day of work: the program paces such reads (15 a second), and how it warms up is
        not what is measured.
        """
        engine = create_engine(database_url(self.database.url), pool_size=4)
        client = StripeClient(api_key=self.stripe_key, base_url=self.stripe_url)
        clock = SystemClock()
        snapshots = Snapshots(
            engine, partial(read_from_stripe, client, clock=clock), lookups=engine, size=100_000
        )
        try:
            wanted = to_mappings(from_yaml(self.account.mapping_file(record_per=record_per)))
            await MappingRepository(engine).replace(wanted, now=clock.now())
            names = sorted(set(self.account.subscriptions.values()))
            for first in range(0, len(names), _READS_AT_ONCE):
                some = names[first : first + _READS_AT_ONCE]
                await asyncio.gather(*(snapshots.refresh(name) for name in some))
        finally:
            await client.aclose()
            await engine.dispose()

    async def until_done(self, process: Process, *, seconds: float) -> None:
        """Wait until nothing is left to book or to send. Raises FigureFailed."""
        deadline = time.monotonic() + seconds
        async with self.database.connect() as connection:
            while any(left := (await connection.fetch(_LEFT))[0]):
                if time.monotonic() >= deadline:
                    raise FigureFailed(
                        f"not done after {seconds:g} s (deliveries, windows, records left: "
                        f"{tuple(left)}). {process.failure('was not quick enough')}"
                    )
                await asyncio.sleep(0.1)

    def check(self, by_subject: Mapping[str, int]) -> None:
        """Stripe holds what was sent, to the unit. Raises FigureFailed: fast and wrong is wrong."""
        owed, held = self.account.owed(by_subject), self.account.held()
        wrong = [item for item, amount in owed.items() if held[item] != amount]
        if wrong:
            first = wrong[0]
            raise FigureFailed(
                f"{len(wrong)} of {len(owed)} items are wrong; {first}: {held[first]} at Stripe, "
                f"{owed[first]} sent"
            )

    def _program(
        self,
        arguments: list[str],
        profile: Path | None,
        more: Mapping[str, str],
        *,
        name: str | None = None,
    ) -> Process:
        settings = self.settings(**more)
        if profile is not None:
            settings["BENCH_PROFILE"] = str(profile)
        command = program(*arguments)
        return self.start(
            Process(name or arguments[0], command, folder=self.folder, settings=settings)
        )


@dataclass(frozen=True, slots=True)
class Service:
    """A `serve` that answers."""

    process: Process
    url: str


@asynccontextmanager
async def open_stage(
    bench: Bench, name: str, subscriptions: Mapping[str, str], *, record_per: str = "window"
) -> AsyncIterator[Stage]:
    """A stage with an account, mapped and known: a fresh database and a sandbox without a limit."""
    folder = bench.place(name)
    key = "sk_test_bench"
    command = program("sandbox", "--port", "0", "--api-key", key)
    with ExitStack() as stack:
        sandbox = stack.enter_context(Process("sandbox", command, folder=folder))
        database = await bench.server.fresh(f"bench_{name}")
        try:
            url = sandbox.until(lambda: _listening(sandbox.said()), what="starting")
            account = Account(LocalApi(url), subscriptions)
            account.change(limit_per_second=0)
            account.set_up(began())
            stage = Stage(bench, folder, stack, database, sandbox, account, url, stripe_key=key)
            await stage.know_all(record_per=record_per)
            yield stage
            stack.close()  # nobody is connected any more when the database is dropped
        finally:
            await bench.server.drop(database)


def _listening(said: str) -> str | None:
    for line in said.splitlines(keepends=True):
        if line.startswith(_LISTENING) and line.endswith("\n"):
            return line.removeprefix(_LISTENING).strip()
    return None
