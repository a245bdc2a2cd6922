"""The database: engine, waiting rules, and which schema it must have."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum, auto
from functools import lru_cache
from pathlib import Path
from typing import Any, Self
from weakref import WeakSet

import asyncpg
import sqlalchemy
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import ColumnElement, Text, TextClause, any_, event, literal
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.engine import URL
from sqlalchemy.exc import (
    DBAPIError,
    InterfaceError,
    OperationalError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from app.database_address import database_url as database_url  # noqa: PLC0414 - looked for here
from app.database_address import engine_arguments, shares_sessions
from app.database_login import log_in, require_own_sessions
from app.database_pool import check_before_use
from app.errors import DatabaseUnavailable, SchemaBehind, SettingsError, StatementTimeout

logger = logging.getLogger(__name__)

# A webhook must be answered within the sender's 15 s, and a pooled statement that waits longer
# than this waits for a lock that is not coming.
STATEMENT_TIMEOUT = "10s"
LOCK_TIMEOUT = "5s"
# A process that is paused in mid-transaction must not keep its row locks for ever.
IDLE_IN_TRANSACTION_TIMEOUT = "10s"
# Longer than any statement takes by the server's own bounds: without an answer by then there is no
# server any more, as after a failover whose old host vanished without a word. The connection itself
# would say so only after a quarter of an hour, or two.
ANSWER_TIMEOUT = 12.0
CONNECT_TIMEOUT = 5.0
_SESSIONS = "meterbridge_sessions"
POOL_TIMEOUT = 5.0
# Seconds until a loop that found the database unavailable tries again: well within the second after
# which everything is to go on.
DATABASE_PAUSE = 0.5


@lru_cache(maxsize=1_000)
def text(statement: str) -> TextClause:
    """`sqlalchemy.text`, made once for each statement.

    To look through a statement for its parameters, and to find it again among those compiled, took
    a third of the time that it took to send it.
    """
    return sqlalchemy.text(statement)


def create_engine(url: URL, *, pool_size: int) -> AsyncEngine:
    """An engine whose connections are checked before use and never wait without a bound."""
    sessions: WeakSet[asyncpg.Connection] = WeakSet()
    engine = create_async_engine(
        url,
        execution_options={_SESSIONS: sessions},
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=POOL_TIMEOUT,
        # Whatever the database's default is: a statement under a lock must see what the lock's last
        # holder has committed, and not what was there when the transaction began.
        isolation_level="READ COMMITTED",
        hide_parameters=True,  # an error's text would hold the bodies of deliveries
        connect_args={
            **engine_arguments(url),
            "async_creator_fn": log_in,
            "timeout": CONNECT_TIMEOUT,
            "command_timeout": ANSWER_TIMEOUT,
            "server_settings": {
                "application_name": "meterbridge",
                "timezone": "UTC",
                "statement_timeout": STATEMENT_TIMEOUT,
                "lock_timeout": LOCK_TIMEOUT,
                "idle_in_transaction_session_timeout": IDLE_IN_TRANSACTION_TIMEOUT,
            },
        },
    )

    @event.listens_for(engine.sync_engine, "connect")
    def remember(connection: Any, _: object) -> None:
        sessions.add(connection.driver_connection)

    check_before_use(engine.sync_engine)
    return engine


# Everything that says "the database did not do it" and not "the statement is wrong": connection,
# resources, intervention, system; and a login or database that is refused.
_UNAVAILABLE_SQLSTATES = ("08", "28", "3D", "53", "57", "58")
# And for now: a standby, a lock that did not come, rights that were taken away, and statements of
# another client in a session that a pooler shares. Usage that met one of these is not at fault.
_UNAVAILABLE_FOR_NOW = ("25006", "55P03", "42501", "26000", "42P05")
CONNECTION_ERRORS: tuple[type[BaseException], ...] = (
    OSError,
    TimeoutError,
    PoolTimeout,
    InterfaceError,
    OperationalError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # as where the answer is to another client's statement
)


# Of the session, and not of the statement: what the server says cannot be read, as where it is of
# another client; a plan of before a migration. The next session, or the next try, has neither.
_SESSION_ERRORS = (asyncpg.InternalClientError, asyncpg.InvalidCachedStatementError)

DRIVER_ERRORS = (
    OSError,  # a TimeoutError is one
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # also where, in the middle of a failover, no host is the primary
)
DATABASE_ERRORS = (SQLAlchemyError, *DRIVER_ERRORS)


def is_unavailable(error: BaseException) -> bool:
    """Whether the database (not the statement) is at fault, so that trying again can help."""
    if isinstance(error, CONNECTION_ERRORS):
        return True
    if isinstance(error, DBAPIError):
        if error.connection_invalidated:
            return True
        # SQLAlchemy's errors have the driver's as their cause; those of `app.driver` are these.
        if isinstance(error.orig, _SESSION_ERRORS) or isinstance(
            getattr(error.orig, "__cause__", None), _SESSION_ERRORS
        ):
            return True
        state = getattr(error.orig, "sqlstate", None) or ""
        # 40: serialization failure or deadlock.
        return state.startswith((*_UNAVAILABLE_SQLSTATES, "40")) or state in _UNAVAILABLE_FOR_NOW
    return False


def lock_not_had(error: BaseException) -> bool:
    """Whether a lock did not come within its timeout, or another one got it, in a deadlock."""
    original = error.orig if isinstance(error, DBAPIError) else error
    return getattr(original, "sqlstate", None) in ("55P03", "40P01")


def timed_out(error: BaseException) -> bool:
    """Whether a statement was cancelled, as after its timeout; locks have one of their own."""
    original = error.orig if isinstance(error, DBAPIError) else error
    return getattr(original, "sqlstate", None) == "57014"


def among(column: ColumnElement[str], values: Iterable[str]) -> ColumnElement[bool]:
    """`column = any(values)`: one parameter however many values (PostgreSQL takes 32,767)."""
    return column == any_(literal(list(values), ARRAY(Text)))


def end_sessions(engine: AsyncEngine) -> None:
    """End all sessions of an engine at once, where one that stood got no answer any more.

    Not behind a pooler by transaction, where a session waits for its turn with the server: there
    each has to find out by itself.

    The others' server is the same one, and each would have to find out by itself, one timeout after
    the other. The pool opens new ones; what was under way is a DatabaseUnavailable. A login that is
    slow (a full pooler, TLS, names) is no such finding: sessions that work would have to go through
    it, too.
    """
    if shares_sessions(engine.url):
        return
    sessions: Iterable[asyncpg.Connection] = engine.sync_engine.get_execution_options().get(
        _SESSIONS, ()
    )
    for session in tuple(sessions):
        session.terminate()


@asynccontextmanager
async def transaction(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """One transaction: committed at the end, rolled back on any error.

    Raises DatabaseUnavailable where the database is at fault (StatementTimeout, one of these, where
    it may as well be the statement); other errors pass.
    """
    try:
        connection = await engine.connect().start()
    except (SettingsError, *DATABASE_ERRORS) as error:
        if isinstance(error, TimeoutError):
            end_sessions(engine)
        # Whatever it says: a server that takes no session has read no statement of ours.
        raise DatabaseUnavailable from error
    done = False
    try:
        async with connection.begin():
            try:
                yield connection
            except TimeoutError:
                end_sessions(engine)  # before the rollback, which would wait as long again
                raise
        done = True
    except DATABASE_ERRORS as error:
        if isinstance(error, TimeoutError):
            end_sessions(engine)
        if timed_out(error):
            raise StatementTimeout from error
        if is_unavailable(error):
            raise DatabaseUnavailable from error
        raise
    finally:
        # After a commit there is nothing to wait for; otherwise the session is put back whatever
        # cancels us meanwhile.
        await (connection.close() if done else asyncio.shield(_closing(connection)))


def _closing(connection: AsyncConnection) -> asyncio.Task[None]:
    return asyncio.create_task(connection.close())


def migrations_folder() -> Path:
    """The Alembic folder: beside the package in a checkout, inside it in an installed wheel."""
    installed = Path(__file__).parent / "_migrations"
    return installed if installed.is_dir() else Path(__file__).parent.parent / "alembic"


def alembic_config(url: URL | None = None) -> Config:
    """Alembic's configuration, without a file: the URL is passed on, never written down."""
    config = Config()
    config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
    config.attributes["url"] = url
    return config


class SchemaState(Enum):
    """How a database's schema stands to what the program needs."""

    BEHIND = auto()
    AT_HEAD = auto()
    NEWER = auto()


@dataclass(frozen=True, slots=True)
class ProgramSchema:
    """The schema that this program needs, and all that it knows on the way there."""

    head: str
    known: frozenset[str]

    @classmethod
    def of_program(cls) -> Self:
        """As the migrations beside the program say; reads them. Raises SchemaBehind if none."""
        scripts = ScriptDirectory.from_config(alembic_config())
        head = scripts.get_current_head()
        if head is None:
            raise SchemaBehind(
                "no migrations were found beside the program; the installation is broken"
            )
        return cls(head, frozenset(script.revision for script in scripts.walk_revisions()))

    def state_of(self, current: str | None) -> SchemaState:
        """A revision that this program does not know is one of a later program.

        In a rolling deploy the new schema comes first: replicas that run must stay ready, and able
        to restart, until they are replaced. Migrations are made so that the release before works
        on their schema.
        """
        if current == self.head:
            return SchemaState.AT_HEAD
        if current is None or current in self.known:
            return SchemaState.BEHIND
        return SchemaState.NEWER


def head_revision() -> str:
    """The schema that this program needs."""
    return ProgramSchema.of_program().head


async def current_revision(connection: AsyncConnection) -> str | None:
    """The schema that the database has, or None where it was never migrated."""
    exists = await connection.scalar(text("select to_regclass('alembic_version') is not null"))
    if not exists:
        return None
    found: str | None = await connection.scalar(text("select version_num from alembic_version"))
    return found


async def require_head(engine: AsyncEngine, program: ProgramSchema | None = None) -> SchemaState:
    """AT_HEAD, or NEWER with a warning in the log.

    Raises SchemaBehind, naming the command to run, where the schema is behind the program's, and
    SettingsError for the address of a pooler that does not say so, or says it wrongly.
    """
    program = program or ProgramSchema.of_program()
    await require_own_sessions(engine)
    try:
        async with transaction(engine) as connection:
            current = await current_revision(connection)
    except DatabaseUnavailable as error:
        if isinstance(error.__cause__, SettingsError):  # to wait does not help
            raise error.__cause__ from None
        raise
    state = program.state_of(current)
    if state is SchemaState.BEHIND:
        raise SchemaBehind(
            f"the database schema is at {current or 'nothing'}, this program needs "
            f"{program.head}: run `meterbridge migrate`"
        )
    if state is SchemaState.NEWER:
        logger.warning(
            "the database schema is at %s, newer than this program's %s: upgrade this replica",
            current,
            program.head,
        )
    return state
