"""The checks behind readiness, on the real database."""

import asyncio
import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.db import ProgramSchema, SchemaState, current_revision, text, transaction

logger = logging.getLogger(__name__)

# Later than any retry of a healthy line: a record older than this needs somebody to look.
UNSENT_TOO_LONG = timedelta(minutes=15)
# Booking waits for nobody: what is not booked by then, nobody books.
UNBOOKED_TOO_LONG = timedelta(minutes=15)
REPLICA_FORGOTTEN = timedelta(days=1)

# What is late and not carried is as unsent as what is due.
OLDEST_UNSENT: Final = """
    (select min(unsent_since) from usage_records where state in ('due', 'late'))
"""

# What booking gave up on, which somebody has to release. Each is one look at a partial index.
_FAILED = text(
    """
    select exists (select from deliveries where state = 'failed') as deliveries,
           exists (select from usage_windows where state = 'parked' and reason = 'booking_failed')
               as windows
    """
)
_FAILED_WORDS = (
    "deliveries could not be booked: see the log, then POST /v1/deliveries/release",
    "windows are parked as booking_failed: see the log, then POST /v1/windows/release",
)


@dataclass(frozen=True, slots=True)
class Check:
    """One check. `receiving`: webhooks cannot be received without it."""

    name: str
    ok: bool
    detail: str
    receiving: bool = True


Checked = tuple[list[Check], datetime | None]
"""All checks of the database, and since when the oldest record is unsent."""


class SharedChecks:
    """One look at the database at a time, however many ask: anybody may, and each costs a write.

    A look that hangs is not broken off, which would have to wait for the database, too: it ends by
    the bounds of the engine, and whoever asks meanwhile waits for the same one.
    """

    def __init__(self) -> None:
        self._running: dict[bool, asyncio.Task[Checked]] = {}

    async def of(
        self, health: "Health", now: datetime, *, receiving_only: bool, seconds: float
    ) -> Checked:
        """As `Health.check`. Raises TimeoutError after so many seconds."""
        look = self._running.get(receiving_only)
        if look is None:
            look = asyncio.create_task(health.check(now, receiving_only=receiving_only))
            self._running[receiving_only] = look
            look.add_done_callback(partial(self._ended, receiving_only))
        done, _ = await asyncio.wait({look}, timeout=seconds)
        if not done:
            raise TimeoutError
        return look.result()

    def _ended(self, which: bool, look: asyncio.Task[Checked]) -> None:  # noqa: FBT001 - a key
        del self._running[which]
        if not look.cancelled():
            look.exception()  # perhaps nobody waits for it any more


class Health:
    """Checks what a replica stands on."""

    def __init__(self, engine: AsyncEngine, replica: str, program: ProgramSchema) -> None:
        self._engine = engine
        self._replica = replica
        self._program = program

    async def check(self, now: datetime, *, receiving_only: bool = False) -> Checked:
        """All checks of the database, and since when the oldest record is unsent.

        With `receiving_only` those that receiving stands on, and nothing is read for the others: a
        migration may lock the ledger for minutes, and webhooks are taken all the while. Raises
        DatabaseUnavailable.
        """
        try:
            return await self._check(now, receiving_only=receiving_only)
        except SQLAlchemyError:
            logger.exception("the database refused what every replica must be able to do")
            return [Check("database", ok=False, detail="refuses to be written; see the log")], None

    async def _check(self, now: datetime, *, receiving_only: bool) -> Checked:
        async with transaction(self._engine) as connection:
            schema = self._schema(await current_revision(connection))
            if not schema.ok:
                return [Check("database", ok=True, detail="answers"), schema], None
            # Before writing: whoever waits here for a locked table must not hold a row that
            # readiness to receive has to write.
            others, oldest = ([], None) if receiving_only else await _work(connection, now)
            return [await self._written(connection, now), schema, *others], oldest

    async def _written(self, connection: AsyncConnection, now: datetime) -> Check:
        written = await connection.scalar(
            text(
                """
                insert into replicas (name, seen_at, heeds_pruning_at) values (:name, :now, :now)
                on conflict (name) do update set
                    seen_at = excluded.seen_at, heeds_pruning_at = excluded.heeds_pruning_at
                returning name
                """
            ),
            {"name": self._replica, "now": now},
        )
        await connection.execute(
            text("delete from replicas where seen_at < :old"), {"old": now - REPLICA_FORGOTTEN}
        )
        return Check("database", ok=written == self._replica, detail="written and read")

    def _schema(self, revision: str | None) -> Check:
        state = self._program.state_of(revision)
        says = {
            SchemaState.AT_HEAD: "",
            SchemaState.BEHIND: f", needs {self._program.head}: meterbridge migrate",
            SchemaState.NEWER: f", newer than this program's {self._program.head}: upgrade it",
        }
        return Check(
            "schema",
            ok=state is not SchemaState.BEHIND,
            detail=f"at {revision or 'nothing'}{says[state]}",
        )


async def _work(connection: AsyncConnection, now: datetime) -> Checked:
    """Whether it goes on behind what is received, and since when the oldest record is unsent."""
    line = (
        await connection.execute(
            text("select stopped, reason, since from stripe_line where id = 1")
        )
    ).one()
    oldest: datetime | None = await connection.scalar(text(f"select {OLDEST_UNSENT}"))
    # The first by id: the index on what is received gives it without looking at the rest.
    unbooked: datetime | None = await connection.scalar(
        text("select received_at from deliveries where state = 'received' order by id limit 1")
    )
    there = (await connection.execute(_FAILED)).one()
    failed = [words for found, words in zip(there, _FAILED_WORDS, strict=True) if found]
    return [
        Check(
            "line",
            ok=not line.stopped,
            detail=f"stopped: {line.reason}" if line.stopped else "open",
            receiving=False,
        ),
        Check(
            "failed",
            ok=not failed,
            detail="; ".join(failed) or "nothing failed to be booked",
            receiving=False,
        ),
        _age("oldest_unbooked", unbooked, now, UNBOOKED_TOO_LONG, none="nothing is unbooked"),
        _age("oldest_unsent", oldest, now, UNSENT_TOO_LONG, none="nothing is unsent"),
    ], oldest


def _age(name: str, since: datetime | None, now: datetime, limit: timedelta, *, none: str) -> Check:
    if since is None:
        return Check(name, ok=True, detail=none, receiving=False)
    age = now - since
    return Check(name, ok=age < limit, detail=f"{int(age.total_seconds())} s", receiving=False)
