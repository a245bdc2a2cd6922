"""The checks behind readiness, on the real database."""

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
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


@dataclass(frozen=True, slots=True)
class Check:
    """One check. `receiving`: webhooks cannot be received without it."""

    name: str
    ok: bool
    detail: str
    receiving: bool = True


class Health:
    """Checks what a replica stands on."""

    def __init__(self, engine: AsyncEngine, replica: str, program: ProgramSchema) -> None:
        self._engine = engine
        self._replica = replica
        self._program = program

    async def check(
        self, now: datetime, *, receiving_only: bool = False
    ) -> tuple[list[Check], datetime | None]:
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

    async def _check(
        self, now: datetime, *, receiving_only: bool
    ) -> tuple[list[Check], datetime | None]:
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


async def _work(connection: AsyncConnection, now: datetime) -> tuple[list[Check], datetime | None]:
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
    return [
        Check(
            "line",
            ok=not line.stopped,
            detail=f"stopped: {line.reason}" if line.stopped else "open",
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
