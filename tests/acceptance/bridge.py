"""One bridge of several processes on one database, with a sandbox for Stripe."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import asyncpg
import httpx
from pydantic import SecretStr
from rich.console import Console
from sqlalchemy.engine import URL

from app.bootstrap import services
from app.commands.draining import drain
from app.config import Settings
from app.db import create_engine, database_url
from app.mapping.file import from_yaml, to_mappings
from tests.acceptance.processes import Program, answering, run, until
from tests.acceptance.sender import METER, SECRET, Message, Sender, account
from tests.dispatch.stripe_side import KEY, PRICE, StripeSide
from tests.ports import free_port

TOKEN = "an-admin-token-of-the-tests"
# Subjects 1 and 2 share an item; subject 9 has no mapping.
ITEMS = {1: "si_1", 2: "si_1", 3: "si_2", 4: "si_3", 5: "si_4"}
MAPPINGS = f"meters: [{{meter: {METER}, price: {PRICE}}}]\nsubjects:\n" + "".join(
    f"  - {{subject: customer-{subject}, subscription: {item.replace('si', 'sub')}}}\n"
    for subject, item in ITEMS.items()
)


class Bridge:
    """Starts processes of the program; all are killed at the end."""

    def __init__(self, folder: Path, url: URL, stripe: StripeSide) -> None:
        self.folder = folder
        self.stripe = stripe
        self.database = url.render_as_string(hide_password=False)
        self.address = self.database.replace("+asyncpg", "")  # as asyncpg takes it
        self.programs: list[Program] = []
        self.settings = {
            "DATABASE_URL": self.database,
            "OPENMETER_WEBHOOK_SECRETS": SECRET,
            "STRIPE_API_KEY": KEY,
            "STRIPE_API_BASE": stripe.url,
            "STRIPE_RATE_LIMIT": "500",
            "STRIPE_TIMEOUT": "5",
            "DISPATCH_LINGER": "0.05",
            "ADMIN_TOKENS": TOKEN,
            "LOG_FORMAT": "text",
            "LOG_LEVEL": "info",
        }

    def start(self, *words: str, crash: tuple[str, str] | None = None, **settings: str) -> Program:
        """Start a command as a process."""
        log = self.folder / f"{len(self.programs)}-{words[0]}.log"
        program = Program(list(words), settings=self.settings | settings, log=log, crash=crash)
        self.programs.append(program)
        return program

    async def serve(
        self,
        *words: str,
        port: int | None = None,
        crash: tuple[str, str] | None = None,
        **settings: str,
    ) -> tuple[Program, str]:
        """Start `serve` and wait until it can receive; returns it and its address."""
        port = port or free_port()
        program = self.start("serve", "--port", str(port), *words, crash=crash, **settings)
        address = f"http://127.0.0.1:{port}"
        await answering(f"{address}/readyz/receive", program)
        return program, address

    async def apply_mappings(self, text: str = MAPPINGS) -> str:
        """`meterbridge mappings apply` of a file; returns its output."""
        file = self.folder / "mappings.yaml"
        file.write_text(text)
        return await self.succeeding("mappings", "apply", str(file))

    async def know_everything(self, *, snapshots: bool = True) -> None:
        """Mappings, and (a read from Stripe each) the subscriptions: as after a day of service."""
        settings = Settings(
            _env_file=None, stripe_api_key=SecretStr(KEY), stripe_api_base=self.stripe.url
        )
        async with services(settings, database_url(self.database)) as built:
            await built.mappings.replace(to_mappings(from_yaml(MAPPINGS)), now=built.clock.now())
            assert built.workshop is not None
            for item in set(ITEMS.values()) if snapshots else ():
                await built.workshop.snapshots.refresh(item.replace("si", "sub"))

    async def succeeding(self, *words: str) -> str:
        """Run a command that must end with 0; returns its output."""
        status, output = await run(list(words), settings=self.settings, folder=self.folder)
        assert status == 0, output
        return output

    async def drained(self) -> None:
        """What `meterbridge drain --timeout 60` does, without starting Python once more."""
        engine = create_engine(database_url(self.database), pool_size=3)
        try:
            left = await drain(engine, seconds=60, console=Console(quiet=True))
        finally:
            await engine.dispose()
        assert left.drained, left

    async def at_work(self, processes: int) -> None:
        """Wait until so many processes book and send."""

        async def listening() -> bool:
            rows = await self.rows(
                "select 1 from pg_stat_activity where datname = current_database() "
                "and application_name = 'meterbridge listener'"
            )
            return len(rows) == processes

        await until(listening, f"{processes} processes are at work")

    async def rows(self, sql: str) -> list[dict[str, Any]]:
        """The rows of a query on the database."""
        connection = await asyncpg.connect(self.address)
        try:
            return [dict(row) for row in await connection.fetch(sql)]
        finally:
            await connection.close()

    async def get(self, url: str) -> tuple[int, Any]:
        """Status and JSON of an address, with the admin token."""
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with httpx.AsyncClient(trust_env=False, timeout=15, headers=headers) as client:
            answer = await client.get(url)
            return answer.status_code, answer.json()

    async def comes_out_even(self, sender: Sender, *, unmapped: Sequence[Message] = ()) -> None:
        """Drain; then Stripe holds exactly what was sent, and every message is accounted for."""
        await self.drained()
        billed = [entry for entry in sender.sent if entry not in unmapped]
        expected = account(billed, items=ITEMS)
        assert self.stripe.standing() == expected
        totals = {item: total for item, total in self.stripe.totals().items() if total}
        assert totals == {item: sum(held.values()) for item, held in expected.items()}
        booked = await self.rows("select svix_id, state from deliveries")
        assert {row["svix_id"]: row["state"] for row in booked} == {
            entry.svix_id: "booked" for entry in sender.sent
        }
        records = await self.rows("select state, count(*) as n from usage_records group by 1")
        assert {row["state"] for row in records} <= {"reported"}
        # What was executed is in the audit trail, whoever died after it.
        audited = {
            row["key"]
            for row in await self.rows(
                "select idempotency_key as key from attempts where outcome = 'succeeded'"
            )
        }
        executed = [call["idempotency_key"] for call in self.stripe.ledger()]
        assert set(executed) == audited
        assert len(executed) == len(set(executed))

    def show_logs(self) -> None:
        """Print the ends of all logs: pytest shows them where the test failed."""
        for program in self.programs:
            print(f"--- {program.name} (status {program.status})")  # noqa: T201
            print(program.output()[-6_000:])  # noqa: T201

    def kill_all(self) -> None:
        """Leave no process behind."""
        for program in self.programs:
            program.kill()
