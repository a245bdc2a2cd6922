"""Statements given to the driver itself, in SQLAlchemy's transaction.

What SQLAlchemy does around a statement (a cursor, a greenlet, parameters by their names) takes two
to three times as long as the driver takes to send it and to read the answer. What every window and
every record goes through does without: some twenty statements for a webhook that comes alone.
"""

import asyncio
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import asyncpg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

if TYPE_CHECKING:
    Driver = asyncpg.Connection[asyncpg.Record]

_NAMED: Final = re.compile(r"(?<![:\w]):([a-z]\w*)")


class Row(asyncpg.Record):
    """A row whose columns are found by their names, as SQLAlchemy's are."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


async def fetch(connection: AsyncConnection, statement: str, *arguments: object) -> list[Row]:
    """The rows of a statement with `$1`, `$2` and so on, in the transaction of a connection.

    Errors are SQLAlchemy's, so that `app.db.transaction` tells which say that the database is not
    available.
    """
    try:
        driver = await _driver(connection)
        found: list[Any] = await driver.fetch(statement, *arguments, record_class=Row)
    except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        # Of what the driver itself says, only what it says of an argument is about this one.
        if isinstance(error, asyncpg.InterfaceError) and not isinstance(error, ValueError):
            raise
        if isinstance(error, asyncpg.PostgresError):
            error.detail = None  # it would show a row in the log
        raise DBAPIError(None, None, error) from error
    except asyncio.CancelledError:
        # Nobody knows how far it came. A session whose BEGIN was cut off would take the next
        # transaction for a savepoint, and commit nothing.
        await connection.invalidate()
        raise
    return found


async def _driver(connection: AsyncConnection) -> "Driver":
    session = connection.sync_connection
    assert session is not None  # noqa: S101 - it is one that `transaction` has opened
    pooled = session.connection
    driver: Driver | None = pooled.driver_connection
    adapted: Any = pooled.dbapi_connection
    assert driver is not None  # noqa: S101 - as above
    if adapted._transaction is None:  # noqa: SLF001 - nothing public says, or sets, it
        # SQLAlchemy begins with its first statement, and this may be before that. It ends both.
        begun = driver.transaction(isolation=adapted.isolation_level)
        await begun.start()
        adapted._transaction = begun  # noqa: SLF001 - as above
    return driver


class Statement:
    """A statement with parameters by name (`:name`), each as often as it is named."""

    def __init__(self, text: str) -> None:
        positions: dict[str, int] = {}

        def position(found: re.Match[str]) -> str:
            return f"${positions.setdefault(found[1], len(positions) + 1)}"

        self.text = text
        self._numbered = _NAMED.sub(position, text)
        self._names = tuple(positions)

    async def fetch(self, connection: AsyncConnection, named: Mapping[str, object]) -> list[Row]:
        """The rows that it returns. Errors as those of `fetch`."""
        return await fetch(connection, self._numbered, *(named[name] for name in self._names))
