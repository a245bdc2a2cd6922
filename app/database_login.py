"""How a session of the database begins: the login, and whether the session is our own."""

import asyncio
import contextlib
from secrets import token_hex
from typing import Any

import asyncpg
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.database_address import Pooler, pooler_of
from app.errors import SettingsError

_SECOND_WITHIN = 3.0
_UNSAID = (
    "DATABASE_URL: a pooler, as PgBouncer, is between this program and PostgreSQL, and the address "
    "does not say how it shares sessions. Add pooler=transaction or pooler=session to it "
    '(?pooler=..., or &pooler=... after other parameters): its pool_mode. See "PgBouncer" in '
    "docs/deployment.md"
)
_SHARED = (
    "DATABASE_URL: says pooler=session, but two clients were given the same session of PostgreSQL "
    'at once: write pooler=transaction. See "PgBouncer" in docs/deployment.md'
)
CHECK_ADDRESS = (
    "Check DATABASE_URL (host, port, name, user, password), and whether PostgreSQL runs there."
)
_NO_ANSWER = (
    f"{CHECK_ADDRESS} Behind a pooler by session its default_pool_size may be used up: each "
    "process needs DATABASE_POOL_SIZE + 3."
)
_IGNORE_PARAMETERS = (
    "This is PgBouncer: give it ignore_startup_parameters = statement_timeout, lock_timeout, "
    "idle_in_transaction_session_timeout, and set these on the role instead. See "
    '"PgBouncer" in docs/deployment.md.'
)
_FOREIGN_STATEMENTS = (
    "Other clients use the same session of PostgreSQL: write pooler=transaction into DATABASE_URL. "
    'See "PgBouncer" in docs/deployment.md.'
)


class LoginTimeout(ConnectionError):
    """No new session was had in time. This says nothing about those that stand."""


class Session(asyncpg.Connection):
    """A connection whose prepared statements have names that no other client's have.

    The driver counts them by process. Where a pooler leaves those of others in a session, or shares
    it against what the address says, the same name would be another process's statement: what was
    seen was an answer with the columns of another query. With these it is an error.
    """

    __slots__ = ("_own",)

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._own = token_hex(8)

    def _get_unique_id(self, prefix: str) -> str:
        return f"{super()._get_unique_id(prefix)}{self._own}"  # type: ignore[misc]  # not public


async def log_in(*, pooler: Pooler | None, **given: Any) -> Session:
    """A session with these arguments of `asyncpg.connect`.

    Raises LoginTimeout, and SettingsError where there is a pooler and `pooler` names none.
    """
    try:
        session = await asyncpg.connect(connection_class=Session, **given)
        if pooler is None:
            await _require_own(session, given.get("timeout"))
    except TimeoutError as error:
        raise LoginTimeout("no session within the time for it") from error
    return session


async def _require_own(session: Session, seconds: float | None) -> None:
    """Raise SettingsError where the process that took the login is not the one that answers.

    Asked in one round trip, and without a prepared statement, of which this is the question. What
    a pooler gives as process is a number of its own, in each of its modes: which one it is cannot
    be seen from here.
    """
    taken_by = session.get_server_pid()
    try:
        found = await session.execute(
            f"select where pg_backend_pid() = {taken_by:d}", timeout=seconds
        )
        if found != "SELECT 1":
            raise SettingsError(_UNSAID)
    except BaseException:
        session.terminate()
        raise


async def require_own_sessions(engine: AsyncEngine) -> None:
    """Raise SettingsError where an address says `pooler=session` and two clients share a session.

    Two that are connected at once never do behind such a pooler. One by transaction gives the
    second what the first has just put back, unless others are quick: silence is no proof. Whatever
    else is wrong with the database is for what is asked of it next to say.
    """
    if pooler_of(engine.url) is not Pooler.SESSION:
        return
    processes: list[int] = []
    with contextlib.suppress(
        SQLAlchemyError, OSError, asyncpg.PostgresError, asyncpg.InternalClientError
    ):
        async with (
            asyncio.timeout(_SECOND_WITHIN),  # a pool may be used up but for one
            engine.connect() as first,
            engine.connect() as second,
        ):
            for session in (first, second):
                processes.append(await session.scalar(text("select pg_backend_pid()")))
                await session.commit()
    if len(processes) > len(set(processes)):
        raise SettingsError(_SHARED)


def next_step(error: BaseException) -> str:
    """What to do about a database that cannot be used, by the error and its causes."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, SettingsError):
            return "Change DATABASE_URL as this says."
        if "unsupported startup parameter" in str(cause):
            return _IGNORE_PARAMETERS
        if getattr(cause, "sqlstate", None) in ("26000", "42P05"):
            return _FOREIGN_STATEMENTS
        if isinstance(cause, TimeoutError | LoginTimeout):
            return _NO_ANSWER
        cause = cause.__cause__
    return CHECK_ADDRESS
