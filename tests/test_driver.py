"""Statements on the driver's own connection: in the transaction, and told apart when they fail."""

import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.db import create_engine, transaction
from app.dispatch.driver import fetch
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
