"""Bringing the schema to what this program needs."""

import asyncio
import logging

from alembic import command
from alembic.util import CommandError
from sqlalchemy.engine import URL

from app.database_address import shares_sessions
from app.database_login import require_own_sessions
from app.db import (
    DATABASE_ERRORS,
    SchemaState,
    alembic_config,
    create_engine,
    is_unavailable,
    lock_not_had,
    require_head,
)
from app.errors import DatabaseUnavailable, SchemaBehind, SettingsError

logger = logging.getLogger(__name__)

# A lock that a migration waits for holds up every statement that comes after it, receiving too: so
# each wait is short (`alembic/env.py`), and there is a pause between two.
ATTEMPTS = 6
PAUSE = 5.0


async def migrate(url: URL) -> SchemaState:
    """Bring the schema to head: AT_HEAD. Replicas that start together wait for each other.

    One newer than this program's stays as it is: NEWER. A lock that does not come within 4 s is
    asked for again, `ATTEMPTS` times in all. Raises DatabaseUnavailable, and SettingsError for the
    address of a pooler by transaction, and of one that is not named, with nothing set on a session.
    """
    if shares_sessions(url):
        # The lock that makes replicas wait, and the timeouts, would stay with somebody else.
        raise SettingsError(
            "DATABASE_URL: a migration needs a session of its own; give it the address of "
            "PostgreSQL itself, without pooler=transaction or prepared_statement_cache_size=0"
        )
    engine = create_engine(url, pool_size=2)
    try:
        await require_own_sessions(engine)
    finally:
        await engine.dispose()
    for _ in range(ATTEMPTS - 1):
        try:
            return await _attempt(url)
        except DatabaseUnavailable as error:
            if error.__cause__ is None or not lock_not_had(error.__cause__):
                raise
            logger.warning("a table is locked; the migration tries again in %g s", PAUSE)
        # Whoever queued up behind the migration gets the table meanwhile.
        await asyncio.sleep(PAUSE)
    return await _attempt(url)


async def _attempt(url: URL) -> SchemaState:
    try:
        # In a thread: the migration environment runs an event loop of its own.
        await asyncio.to_thread(command.upgrade, alembic_config(url), "head")
    except CommandError:
        # What Alembic says, among others, of a revision that it cannot find.
        if not await _is_newer(url):
            raise
        return SchemaState.NEWER
    except DATABASE_ERRORS as error:
        if is_unavailable(error):
            raise DatabaseUnavailable(
                "The database does not answer, or a table stays locked; nothing was migrated"
            ) from error
        raise
    return SchemaState.AT_HEAD


async def _is_newer(url: URL) -> bool:
    engine = create_engine(url, pool_size=1)
    try:
        return await require_head(engine) is SchemaState.NEWER
    except SchemaBehind:
        return False
    finally:
        await engine.dispose()
