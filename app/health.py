"""The checks behind readiness, on the real database."""

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db import current_revision, transaction

logger = logging.getLogger(__name__)

# Later than any retry of a healthy line: a record older than this needs somebody to look.
UNSENT_TOO_LONG = timedelta(minutes=15)
REPLICA_FORGOTTEN = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Check:
    """One check. `receiving`: webhooks cannot be received without it."""

    name: str
    ok: bool
    detail: str
    receiving: bool = True


class Health:
    """Checks what a replica stands on."""

    def __init__(self, engine: AsyncEngine, replica: str, head: str) -> None:
        self._engine = engine
        self._replica = replica
        self._head = head

    async def check(self, now: datetime) -> tuple[list[Check], datetime | None]:
        """All checks of the database, and since when the oldest record is unsent.

        Raises DatabaseUnavailable.
        """
        try:
            return await self._check(now)
        except SQLAlchemyError:
            logger.exception("the database refused what every replica must be able to do")
            return [Check("database", ok=False, detail="refuses to be written; see the log")], None

    async def _check(self, now: datetime) -> tuple[list[Check], datetime | None]:
        async with transaction(self._engine) as connection:
            revision = await current_revision(connection)
            schema = Check(
                "schema",
                ok=revision == self._head,
                detail=f"at {revision or 'nothing'}"
                + ("" if revision == self._head else f", needs {self._head}: meterbridge migrate"),
            )
            if not schema.ok:
                return [Check("database", ok=True, detail="answers"), schema], None
            written = await connection.scalar(
                text(
                    """
                    insert into replicas (name, seen_at) values (:name, :now)
                    on conflict (name) do update set seen_at = excluded.seen_at
                    returning name
                    """
                ),
                {"name": self._replica, "now": now},
            )
            await connection.execute(
                text("delete from replicas where seen_at < :old"), {"old": now - REPLICA_FORGOTTEN}
            )
            line = (
                await connection.execute(
                    text("select stopped, reason, since from stripe_line where id = 1")
                )
            ).one()
            oldest: datetime | None = await connection.scalar(
                text("select min(unsent_since) from usage_records where state = 'due'")
            )
        age = now - oldest if oldest else timedelta(0)
        return [
            Check("database", ok=written == self._replica, detail="written and read"),
            schema,
            Check(
                "line",
                ok=not line.stopped,
                detail=f"stopped: {line.reason}" if line.stopped else "open",
                receiving=False,
            ),
            Check(
                "oldest_unsent",
                ok=age < UNSENT_TOO_LONG,
                detail=f"{int(age.total_seconds())} s" if oldest else "nothing is unsent",
                receiving=False,
            ),
        ], oldest
