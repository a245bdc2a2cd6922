"""Statements given to the driver: as SQLAlchemy's, in their transaction, by its errors."""

import asyncio
from contextlib import suppress

import pytest
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.db import create_engine, text, transaction
from app.driver import Statement, fetch
from app.errors import DatabaseUnavailable, StatementTimeout

INSERT = "insert into subscription_lanes (subscription) values ($1) returning subscription"


async def names(engine: AsyncEngine) -> list[str]:
    async with transaction(engine) as connection:
        rows = await fetch(connection, "select subscription from subscription_lanes order by 1")
    return [row["subscription"] for row in rows]


async def insert(connection: AsyncConnection, name: str, *, by_driver: bool) -> None:
    if by_driver:
        [row] = await fetch(connection, INSERT, name)
        assert row["subscription"] == name
    else:
        await connection.execute(text(INSERT.replace("$1", ":name")), {"name": name})


@pytest.mark.parametrize("by_driver", [(True, True), (True, False), (False, True)])
async def test_both_kinds_are_one_transaction(
    engine: AsyncEngine, by_driver: tuple[bool, bool]
) -> None:
    async def both(*, fails: bool = False) -> None:
        async with transaction(engine) as connection:
            for name, driver in zip("ab", by_driver, strict=True):
                await insert(connection, name, by_driver=driver)
            if fails:
                raise RuntimeError("after both")

    with pytest.raises(RuntimeError, match="after both"):
        await both(fails=True)
    assert await names(engine) == []
    await both()
    assert await names(engine) == ["a", "b"]


FAILURES = {
    "the session was ended": ("select pg_terminate_backend(pg_backend_pid())", DatabaseUnavailable),
    "a serialization failure": (
        "do $$ begin raise exception using errcode = '40001'; end $$",
        DatabaseUnavailable,
    ),
    "a lock that did not come": (
        "do $$ begin raise exception using errcode = '55P03'; end $$",
        DatabaseUnavailable,
    ),
    "cancelled": ("select pg_cancel_backend(pg_backend_pid()), pg_sleep(5)", StatementTimeout),
    "a defect of ours": ("select no_such_column", DBAPIError),
}


@pytest.mark.parametrize(("statement", "error"), FAILURES.values(), ids=FAILURES)
async def test_what_a_failure_says(
    engine: AsyncEngine, statement: str, error: type[Exception]
) -> None:
    async def fail() -> None:
        async with transaction(engine) as connection:
            await fetch(connection, INSERT, "a")
            await fetch(connection, statement)

    with pytest.raises(error) as raised:
        await fail()
    assert type(raised.value) is error
    assert await names(engine) == []  # on a session that works


async def test_behind_a_pooler_by_transaction_no_statement_is_kept(
    engine: AsyncEngine, fresh_url: URL
) -> None:
    pooled = create_engine(
        fresh_url.update_query_dict({"prepared_statement_cache_size": "0"}), pool_size=1
    )
    try:
        async with transaction(pooled) as connection:
            await fetch(connection, INSERT, "a")
            kept = await fetch(connection, "select name from pg_prepared_statements")
        assert [row["name"] for row in kept if row["name"]] == []
    finally:
        await pooled.dispose()
    assert await names(engine) == ["a"]


TWICE = Statement(
    """
    -- neither '00:00:01' nor ::text is a parameter
    select :b as b, :a || :b as both, '00:00:01'::time::text as at
    """
)


async def test_parameters_go_by_their_names_however_often_one_is_named(engine: AsyncEngine) -> None:
    async with transaction(engine) as connection:
        [row] = await TWICE.fetch(connection, {"a": "x", "unused": object(), "b": "y"})
    assert (row.b, row.both, row["at"]) == ("y", "xy", "00:00:01")
    assert tuple(row) == ("y", "xy", "00:00:01")
    with pytest.raises(AttributeError):
        _ = row.other


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


async def test_what_is_committed_after_one_was_cut_off_is_there(
    engine: AsyncEngine, fresh_url: URL
) -> None:
    """A BEGIN that was cut off made savepoints of what followed: none was ever committed."""
    single = create_engine(fresh_url, pool_size=1)

    async def cut_off() -> None:
        async with transaction(single) as connection:
            await fetch(connection, "select 1")

    for steps in range(40):
        task = asyncio.create_task(cut_off())
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        async with transaction(single) as connection:
            await insert(connection, f"{steps:02}", by_driver=False)
    await single.dispose()
    assert await names(engine) == [f"{steps:02}" for steps in range(40)]


@pytest.mark.parametrize("by_driver", [True, False])
async def test_a_transaction_sees_what_was_committed_since_it_began(
    engine: AsyncEngine, fresh_url: URL, by_driver: bool
) -> None:
    """Whatever the database's default is: what waits for a lock then looks at what it is for."""
    async with transaction(engine) as connection:
        await connection.execute(
            text(
                f'alter database "{fresh_url.database}" '
                "set default_transaction_isolation = 'repeatable read'"
            )
        )
    there = create_engine(fresh_url, pool_size=1)
    query = "select count(*) from subscription_lanes"
    counted: list[int] = []
    async with transaction(there) as connection:
        for name in ("a", "b"):
            if by_driver:
                counted.append((await fetch(connection, query))[0]["count"])
            else:
                counted.append(await connection.scalar(text(query)) or 0)
            async with transaction(engine) as other:
                await insert(other, name, by_driver=True)
    await there.dispose()
    assert counted == [0, 1]


@pytest.mark.parametrize("by_driver", [True, False])
async def test_a_plan_of_before_a_migration_is_not_the_statements_fault(
    engine: AsyncEngine, fresh_url: URL, by_driver: bool
) -> None:
    """One try fails, as the database's; then the session has forgotten the plan."""
    single = create_engine(fresh_url, pool_size=1)

    async def look() -> None:
        query = "select subscription from subscription_lanes"
        async with transaction(single) as connection:
            if by_driver:
                await fetch(connection, query)
            else:
                await connection.execute(text(query))

    await look()
    async with transaction(engine) as connection:
        await connection.execute(
            text("alter table subscription_lanes alter column subscription type varchar(300)")
        )
    with pytest.raises(DatabaseUnavailable):
        await look()
    await look()
    await single.dispose()


async def test_an_error_shows_no_row(engine: AsyncEngine) -> None:
    async def twice() -> None:
        async with transaction(engine) as connection:
            await fetch(connection, INSERT, "sub_secret")
            await fetch(connection, INSERT, "sub_secret")

    with pytest.raises(DBAPIError) as raised:
        await twice()
    assert "sub_secret" not in str(raised.value)


async def test_a_session_whose_transaction_was_left_open_is_not_used_again(
    engine: AsyncEngine, fresh_url: URL
) -> None:
    single = create_engine(fresh_url, pool_size=1)
    async with transaction(single) as connection:
        left = (await connection.get_raw_connection()).driver_connection
        assert left is not None
    await left.execute("begin")
    async with transaction(single) as connection:
        await insert(connection, "kept", by_driver=True)
    await single.dispose()
    assert await names(engine) == ["kept"]
