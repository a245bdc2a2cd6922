"""The doctor at a session of the database: is it our own, and does everything in it end."""

from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from app.commands.doctor_findings import Finding, Level
from app.database_login import require_own_sessions
from app.db import (
    IDLE_IN_TRANSACTION_TIMEOUT,
    LOCK_TIMEOUT,
    STATEMENT_TIMEOUT,
    text,
    transaction,
)

BOUNDS: Final = {
    "statement_timeout": STATEMENT_TIMEOUT,
    "lock_timeout": LOCK_TIMEOUT,
    "idle_in_transaction_session_timeout": IDLE_IN_TRANSACTION_TIMEOUT,
}


async def session_findings(engine: AsyncEngine) -> list[Finding]:
    """A warning where PostgreSQL was not given, or not told to keep, the bounds of a session.

    A pooler drops them where it was told to ignore what a client asks for. Raises SettingsError
    where it shares sessions against what the address says, and DatabaseUnavailable.
    """
    await require_own_sessions(engine)
    async with transaction(engine) as connection:
        found = await connection.scalars(
            text("select name from pg_settings where name = any(:names) and setting = '0'"),
            {"names": list(BOUNDS)},
        )
        unbounded = set(found)
    if not unbounded:
        return []
    missing = {name: bound for name, bound in BOUNDS.items() if name in unbounded}
    return [
        Finding(
            "sessions",
            Level.WARNING,
            f"without a bound: {', '.join(missing)}; a webhook may wait for a lock for longer than "
            "its sender does",
            " ".join(f"alter role ... set {name} = '{bound}';" for name, bound in missing.items())
            + ' See "PgBouncer" in docs/deployment.md.',
        )
    ]
