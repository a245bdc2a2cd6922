"""Bringing the schema to what this program needs."""

import asyncio

import asyncpg
from alembic import command
from alembic.util import CommandError
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError

from app.db import SchemaState, alembic_config, create_engine, is_unavailable, require_head
from app.errors import DatabaseUnavailable, SchemaBehind


async def migrate(url: URL) -> SchemaState:
    """Bring the schema to head: AT_HEAD. Replicas that start together wait for each other.

    One newer than this program's stays as it is: NEWER. Raises DatabaseUnavailable.
    """
    try:
        # In a thread: the migration environment runs an event loop of its own.
        await asyncio.to_thread(command.upgrade, alembic_config(url), "head")
    except CommandError:
        # What Alembic says, among others, of a revision that it cannot find.
        if not await _is_newer(url):
            raise
        return SchemaState.NEWER
    except (OSError, SQLAlchemyError, asyncpg.PostgresError) as error:
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
