"""Runs migrations: one replica at a time, never long behind a lock."""

import asyncio

from alembic import context
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine

from app.database_address import engine_arguments
from app.database_login import log_in
from app.tables import metadata

# One number for all replicas of this program; ten may start at once, and nine wait here.
ADVISORY_LOCK = 7_261_946_001
LOCK_TIMEOUT = "4s"
STATEMENT_TIMEOUT = "10min"


def run(connection: Connection) -> None:
    """Migrate on one connection, under the advisory lock, in one transaction per migration."""
    context.configure(
        connection=connection,
        target_metadata=metadata,
        compare_type=True,
        compare_server_default=True,
        transaction_per_migration=True,
    )
    # Whatever the role has: nine of ten wait here for as long as the first one migrates.
    connection.execute(text("set lock_timeout = 0"))
    connection.execute(text("set statement_timeout = 0"))
    connection.execute(text("select pg_advisory_lock(:key)"), {"key": ADVISORY_LOCK})
    # Only after the wait for our turn: a table lock must not be waited for longer than this.
    connection.execute(text(f"set lock_timeout = '{LOCK_TIMEOUT}'"))
    connection.execute(text(f"set statement_timeout = '{STATEMENT_TIMEOUT}'"))
    connection.commit()
    try:
        with context.begin_transaction():
            context.run_migrations()
    finally:
        if connection.in_transaction():
            connection.rollback()
        connection.execute(text("select pg_advisory_unlock(:key)"), {"key": ADVISORY_LOCK})
        connection.commit()


async def main() -> None:
    """Connect and migrate. The URL comes from the caller and is never written down."""
    url = context.config.attributes["url"]
    engine = create_async_engine(
        url, connect_args=engine_arguments(url) | {"async_creator_fn": log_in}
    )
    try:
        async with engine.connect() as connection:
            await connection.run_sync(run)
    finally:
        await engine.dispose()


given = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    asyncio.run(main())
