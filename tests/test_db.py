"""The database: what counts as away, how long anything waits, and what errors may show."""

import asyncpg
import pytest
from sqlalchemy import column, select, table, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import (
    DBAPIError,
    IntegrityError,
    InterfaceError,
    OperationalError,
    ProgrammingError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine

from app.database_address import database_url, driver_arguments
from app.db import (
    among,
    create_engine,
    current_revision,
    head_revision,
    is_unavailable,
    transaction,
)
from app.errors import DatabaseUnavailable, SettingsError, StatementTimeout


class Answer(Exception):
    """An error of the driver with an SQLSTATE."""

    def __init__(self, sqlstate: str | None) -> None:
        self.sqlstate = sqlstate


def refused(sqlstate: str | None, *, lost: bool = False) -> DBAPIError:
    error = DBAPIError("select 1", {}, Answer(sqlstate))
    error.connection_invalidated = lost
    return error


def caused(error: Exception) -> DBAPIError:
    """As SQLAlchemy has an error of the driver."""
    adapted = Answer(None)
    adapted.__cause__ = error
    return DBAPIError("select 1", {}, adapted)


AWAY: list[tuple[BaseException, bool]] = [
    (ConnectionRefusedError(), True),
    (TimeoutError(), True),
    (PoolTimeout(), True),
    (InterfaceError("", {}, Exception()), True),
    (OperationalError("", {}, Exception()), True),
    (asyncpg.ConnectionDoesNotExistError(), True),
    (asyncpg.InterfaceError("closed"), True),
    (refused("08006"), True),  # connection failure
    (refused("53300"), True),  # too many connections
    (refused("53100"), True),  # disk full
    (refused("57014"), True),  # statement timeout
    (refused("57P01"), True),  # admin shutdown
    (refused("57P03"), True),  # starting up
    (refused("28P01"), True),  # a password that is refused
    (refused("3D000"), True),  # no such database
    (refused("58030"), True),  # I/O error
    (refused("40001"), True),  # serialization failure
    (refused("40P01"), True),  # deadlock
    (refused("55P03"), True),  # lock timeout
    (refused("25006"), True),  # a standby
    (refused("42501"), True),  # rights that were taken away
    (refused("26000"), True),  # a statement that a pooler's session does not have
    (refused("42P05"), True),  # one that it has of another client
    (asyncpg.InternalClientError("columns differ"), True),
    (caused(asyncpg.InternalClientError("columns differ")), True),
    (caused(asyncpg.InvalidCachedStatementError("a plan of before a migration")), True),
    (caused(asyncpg.FeatureNotSupportedError("never")), False),
    (refused("22003"), False),  # a number out of range
    (refused("23505"), False),  # a row that exists
    (refused("42P01"), False),  # no such table
    (refused("25001"), False),
    (refused("55000"), False),
    (refused(None), False),
    (refused(None, lost=True), True),
    (IntegrityError("", {}, Answer("23514")), False),
    (ProgrammingError("", {}, Answer("42601")), False),
    (ValueError(), False),
    (KeyError(), False),
]


@pytest.mark.parametrize(("error", "away"), AWAY)
def test_which_errors_say_that_the_database_is_away(error: BaseException, away: bool) -> None:
    assert is_unavailable(error) is away


async def test_a_transaction_is_committed_or_rolled_back(engine: AsyncEngine) -> None:
    insert = text("insert into replicas (name, seen_at) values (:name, now())")
    async with transaction(engine) as connection:
        await connection.execute(insert, {"name": "kept"})

    async def fail() -> None:
        async with transaction(engine) as connection:
            await connection.execute(insert, {"name": "undone"})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    async with transaction(engine) as connection:
        assert (await connection.execute(text("select name from replicas"))).all() == [("kept",)]


async def test_a_wrong_statement_is_not_an_absent_database(engine: AsyncEngine) -> None:
    with pytest.raises(ProgrammingError):
        async with transaction(engine) as connection:
            await connection.execute(text("select * from nowhere"))


async def test_a_killed_session_is_an_absent_database(engine: AsyncEngine) -> None:
    with pytest.raises(DatabaseUnavailable):
        async with transaction(engine) as connection:
            await connection.execute(text("select pg_terminate_backend(pg_backend_pid())"))
    async with transaction(engine) as connection:  # the pool has noticed
        assert await connection.scalar(text("select 1")) == 1


async def _run(engine: AsyncEngine, *statements: str) -> None:
    async with transaction(engine) as connection:
        for statement in statements:
            await connection.execute(text(statement))


async def test_a_statement_that_takes_too_long_has_an_error_of_its_own(
    engine: AsyncEngine,
) -> None:
    """Whoever waits for the database waits for this, too; who has neighbours tells it apart."""
    with pytest.raises(StatementTimeout) as caught:
        await _run(engine, "set local statement_timeout = '20ms'", "select pg_sleep(5)")
    assert isinstance(caught.value, DatabaseUnavailable)
    assert (caught.value.status, caught.value.slug) == (503, DatabaseUnavailable.slug)


async def test_a_lock_that_does_not_come_is_not_a_slow_statement(engine: AsyncEngine) -> None:
    async with transaction(engine) as holder:
        lock = "select pg_advisory_xact_lock(1)"
        await holder.execute(text(lock))
        with pytest.raises(DatabaseUnavailable) as caught:
            await _run(engine, "set local lock_timeout = '20ms'", lock)
    assert type(caught.value) is DatabaseUnavailable


async def test_no_server_is_an_absent_database(server_url: URL) -> None:
    nobody = URL.create("postgresql+asyncpg", "u", "secret-password", "127.0.0.1", 1, "d")
    engine = create_engine(nobody, pool_size=1)
    with pytest.raises(DatabaseUnavailable) as caught:
        async with transaction(engine):
            pass
    assert "secret-password" not in str(caught.value) + str(caught.value.__cause__)
    await engine.dispose()
    assert server_url


async def test_a_server_that_takes_no_session_is_an_absent_database(
    fresh_url: URL, server_url: URL
) -> None:
    """Whatever it says: this is 55000, which of a statement would be a defect of ours."""
    server = create_engine(server_url, pool_size=1)
    async with server.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.execute(
            text(f'alter database "{fresh_url.database}" with allow_connections false')
        )
    await server.dispose()
    engine = create_engine(fresh_url, pool_size=1)
    with pytest.raises(DatabaseUnavailable) as caught:
        await _run(engine, "select 1")
    assert not is_unavailable(caught.value.__cause__ or caught.value)
    await engine.dispose()


async def test_a_pool_that_is_used_up_is_an_absent_database(
    fresh_url: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.db.POOL_TIMEOUT", 0.05)
    engine = create_engine(fresh_url, pool_size=1)
    async with transaction(engine):
        with pytest.raises(DatabaseUnavailable):
            async with transaction(engine):
                pass
    await engine.dispose()


async def test_nothing_waits_for_ever_and_times_are_utc(engine: AsyncEngine) -> None:
    async with transaction(engine) as connection:
        found = {
            name: await connection.scalar(text(f"show {name}"))
            for name in (
                "statement_timeout",
                "lock_timeout",
                "idle_in_transaction_session_timeout",
                "timezone",
            )
        }
    assert found == {
        "statement_timeout": "10s",
        "lock_timeout": "5s",
        "idle_in_transaction_session_timeout": "10s",
        "timezone": "UTC",
    }


async def test_an_errors_text_holds_no_parameters(engine: AsyncEngine) -> None:
    with pytest.raises(DBAPIError) as caught:
        async with transaction(engine) as connection:
            await connection.execute(
                text("insert into deliveries (svix_id) values (:secret)"), {"secret": "SECRET"}
            )
    assert "SECRET" not in str(caught.value).split("DETAIL")[0]


async def test_among_takes_more_values_than_there_are_parameters(engine: AsyncEngine) -> None:
    """PostgreSQL takes 32,767 of them."""
    names = [f"n{number}" for number in range(40_000)]
    replicas = table("replicas", column("name"))
    async with transaction(engine) as connection:
        await connection.execute(
            text("insert into replicas (name, seen_at) values ('n39999', now()), ('x', now())")
        )
        found = await connection.execute(
            select(replicas.c.name).where(among(replicas.c.name, names))
        )
        assert found.all() == [("n39999",)]
        none = await connection.execute(select(replicas.c.name).where(among(replicas.c.name, [])))
        assert none.all() == []


async def test_the_schema_that_stands_is_told(engine: AsyncEngine) -> None:
    async with transaction(engine) as connection:
        assert await current_revision(connection) == head_revision()
        await connection.execute(text("drop table alembic_version"))
        assert await current_revision(connection) is None


async def test_an_address_is_read_alike_by_the_engine_and_by_the_listener(fresh_url: URL) -> None:
    """SQLAlchemy hands on what it finds in an address as it is: as text."""
    url = fresh_url.update_query_dict({"statement_cache_size": "7", "direct_tls": "false"})
    given = driver_arguments(url)
    assert (given["statement_cache_size"], given["direct_tls"]) == (7, False)
    connection = await asyncpg.connect(**given)
    await connection.close()
    engine = create_engine(url, pool_size=1)
    await _run(engine, "select 1")
    await engine.dispose()


@pytest.mark.parametrize("name", ["prepared_statement_cache_size", "statement_cache_size"])
async def test_behind_a_pooler_by_transaction_no_statement_outlives_its_transaction(
    fresh_url: URL, name: str
) -> None:
    engine = create_engine(fresh_url.update_query_dict({name: "0"}), pool_size=1)
    standing = "select count(*) from pg_prepared_statements where name <> ''"
    async with transaction(engine) as connection:
        for _ in range(3):
            found = await connection.execute(text("select cast(:n as int)"), {"n": 1})
            assert found.scalar_one() == 1
        assert await connection.scalar(text(standing)) == 0
    await engine.dispose()
    kept = create_engine(fresh_url, pool_size=1)
    async with transaction(kept) as connection:
        assert await connection.scalar(text(standing)) > 0
    await kept.dispose()


@pytest.mark.parametrize("value", ["x", "-1"])
def test_a_number_of_statements_is_a_number(value: str) -> None:
    with pytest.raises(SettingsError, match="must be a number"):
        database_url(f"postgresql://u@h/d?prepared_statement_cache_size={value}")
