"""Statements given to the driver: as SQLAlchemy's, in their transaction, by its errors."""

import asyncio
from contextlib import suppress

import pytest
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db import create_engine, text, transaction
from app.errors import DatabaseUnavailable
from app.ledger.statements import Statement
from tests.ledger.world import World

TWICE = Statement(
    """
    -- neither '00:00:01' nor ::text is a parameter
    select :b as b, :a || :b as both, '00:00:01'::time::text as at
    """
)
ADD = Statement("insert into window_releases (kind, name) values ('meter', :name)")


async def added(world: World) -> list[str]:
    return [row["name"] for row in await world.rows("select name from window_releases order by id")]


async def test_parameters_go_by_their_names_however_often_one_is_named(engine: AsyncEngine) -> None:
    async with transaction(engine) as connection:
        [row] = await TWICE.fetch(connection, {"a": "x", "unused": object(), "b": "y"})
    assert (row.b, row.both, row["at"]) == ("y", "xy", "00:00:01")
    assert tuple(row) == ("y", "xy", "00:00:01")
    with pytest.raises(AttributeError):
        _ = row.other


async def test_they_are_part_of_the_transaction_also_as_its_first(unmapped: World) -> None:
    with suppress(ZeroDivisionError):
        async with transaction(unmapped.engine) as connection:
            await ADD.fetch(connection, {"name": "undone"})
            await connection.execute(text("select 1"))
            raise ZeroDivisionError
    async with transaction(unmapped.engine) as connection:
        await ADD.fetch(connection, {"name": "first"})
        await connection.execute(
            text("insert into window_releases (kind, name) values ('meter', 'second')")
        )
    async with transaction(unmapped.engine) as connection:
        await connection.execute(text("select 1"))
        await ADD.fetch(connection, {"name": "third"})
    assert await added(unmapped) == ["first", "second", "third"]


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        (Statement("select 1 / :divisor"), {"divisor": 0}),
        (Statement("select nothing"), {}),
        (Statement("select cast(:number as bigint)"), {"number": "not a number"}),
        (Statement("select cast(:number as bigint)"), {"number": 2**63}),
    ],
)
async def test_an_error_of_a_statement_does_not_say_that_there_is_no_database(
    engine: AsyncEngine, statement: Statement, named: dict[str, object]
) -> None:
    """Else what fails for its own sake would be tried for ever, and keep all behind it."""
    with pytest.raises(DBAPIError):
        async with transaction(engine) as connection:
            await statement.fetch(connection, named)
    async with transaction(engine) as connection:
        assert await connection.scalar(text("select 1")) == 1


async def test_a_session_that_ends_is_a_database_that_is_away(engine: AsyncEngine) -> None:
    ended = Statement("select pg_terminate_backend(pg_backend_pid())")
    with pytest.raises(DatabaseUnavailable):
        async with transaction(engine) as connection:
            await ended.fetch(connection, {})
    async with transaction(engine) as connection:
        assert await connection.scalar(text("select 1")) == 1


async def test_what_is_committed_after_one_was_cut_off_is_there(
    unmapped: World, fresh_url: URL
) -> None:
    """A BEGIN that was cut off made savepoints of what followed: none was ever committed."""
    single = create_engine(fresh_url, pool_size=1)

    async def cut_off() -> None:
        async with transaction(single) as connection:
            await Statement("select 1").fetch(connection, {})

    for steps in range(40):
        task = asyncio.create_task(cut_off())
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        async with transaction(single) as connection:
            await connection.execute(
                text("insert into window_releases (kind, name) values ('meter', :name)"),
                {"name": str(steps)},
            )
    await single.dispose()
    assert await added(unmapped) == [str(steps) for steps in range(40)]
