"""Statements on the driver's own connection, in SQLAlchemy's transaction.

What SQLAlchemy does around a statement (parameters by name, a cursor, a greenlet) takes three
times as long as the driver takes to send it and to read the answer: 320 and 90 us, ten times for a
single webhook. The statements of every record's way do without.
"""

from typing import Any

import asyncpg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection


async def fetch(
    connection: AsyncConnection, statement: str, *arguments: object
) -> list[asyncpg.Record]:
    """The rows of a statement with `$1`, `$2` and so on, in the connection's transaction.

    Errors are SQLAlchemy's, so that `app.db.transaction` tells which say that the database is not
    available.
    """
    session = connection.sync_connection
    assert session is not None  # noqa: S101 - it is one that `transaction` has opened
    pooled = session.connection
    driver: asyncpg.Connection[asyncpg.Record] | None = pooled.driver_connection
    adapted: Any = pooled.dbapi_connection
    assert driver is not None  # noqa: S101 - as above
    try:
        if adapted._transaction is None:  # noqa: SLF001 - nothing public says, or sets, it
            # SQLAlchemy begins with its first statement, this may be before it. It ends both.
            begun = driver.transaction()
            await begun.start()
            adapted._transaction = begun  # noqa: SLF001 - as above
        return await driver.fetch(statement, *arguments)
    except asyncpg.PostgresError as error:
        raise DBAPIError(None, None, error) from error
