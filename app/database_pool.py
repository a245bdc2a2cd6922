"""Sessions of the pool: none is used that has ended, or that is in somebody else's transaction."""

import math
import time
from typing import Any

import asyncpg
from sqlalchemy import event
from sqlalchemy.engine import Dialect, Engine
from sqlalchemy.exc import DisconnectionError, InvalidatePoolError
from sqlalchemy.pool import ConnectionPoolEntry

# Seconds for which a session that was put back is taken for one that stands.
TRUSTED_FOR = 1.0


def check_before_use(engine: Engine) -> None:
    """See that a session of the pool still stands, before it is used.

    After a restart of the database the first query would fail. SQLAlchemy's own `pool_pre_ping`
    asks each time, which takes three round trips, more than most transactions here; one that was
    closed says so without any, as long as nothing was lost on the way.
    """
    put_back = "put_back"  # in a session's info, which goes with the session

    @event.listens_for(engine, "checkin")
    def rests(_: object, record: ConnectionPoolEntry) -> None:
        record.info[put_back] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def stands(connection: Any, record: ConnectionPoolEntry, _: object) -> None:
        session: asyncpg.Connection = connection.driver_connection
        rested = time.monotonic() - record.info.get(put_back, math.inf)
        if session.is_closed() or (
            rested > TRUSTED_FOR and not _answers(engine.dialect, connection)
        ):
            raise InvalidatePoolError("the session has ended")
        if session.is_in_transaction():
            # One that was left open would make savepoints of all that follow: none is committed.
            raise DisconnectionError("the session is in a transaction of somebody else")


def _answers(dialect: Dialect, connection: Any) -> bool:
    try:
        return dialect.do_ping(connection)
    except dialect.loaded_dbapi.Error as error:
        if dialect.is_disconnect(error, connection, None):
            return False
        raise
