"""The schema: migrations and models agree, many may migrate at once, an old one is refused, and a
newer one is not."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db import (
    ProgramSchema,
    SchemaState,
    alembic_config,
    create_engine,
    current_revision,
    head_revision,
    require_head,
    transaction,
)
from app.errors import DatabaseUnavailable, SchemaBehind, SettingsError
from app.migrating import migrate
from app.tables import metadata

ROOT = Path(__file__).parent.parent


@pytest.fixture
async def empty_url(server_url: URL) -> AsyncIterator[URL]:
    """A database that was never migrated."""
    name = f"mb_empty_{uuid4().hex[:12]}"
    async with _session(server_url) as connection:
        await connection.execute(f'create database "{name}"')
        yield server_url.set(database=name)
        await connection.execute(f'drop database "{name}" with (force)')


@asynccontextmanager
async def _session(url: URL) -> AsyncIterator[asyncpg.Connection]:
    """A session of somebody else's."""
    address = url.set(drivername="postgresql").render_as_string(hide_password=False)
    connection = await asyncpg.connect(address)
    try:
        yield connection
    finally:
        await connection.close()


async def _differences(url: URL) -> list[object]:
    engine = create_engine(url, pool_size=3)
    async with engine.connect() as connection:
        found = await connection.run_sync(
            lambda sync: compare_metadata(
                MigrationContext.configure(
                    sync, opts={"compare_type": True, "compare_server_default": True}
                ),
                metadata,
            )
        )
    await engine.dispose()
    return list(found)


async def test_migrations_and_models_agree(empty_url: URL) -> None:
    assert await _differences(empty_url) != []
    await migrate(empty_url)
    assert await _differences(empty_url) == []


async def test_down_to_nothing_and_up_again(empty_url: URL) -> None:
    await migrate(empty_url)
    await asyncio.to_thread(command.downgrade, alembic_config(empty_url), "base")
    engine = create_engine(empty_url, pool_size=3)
    async with transaction(engine) as connection:
        left = (
            await connection.execute(
                text(
                    "select table_name from information_schema.tables "
                    "where table_schema = 'public' and table_name <> 'alembic_version'"
                )
            )
        ).all()
    await engine.dispose()
    assert left == []
    await migrate(empty_url)
    assert await _differences(empty_url) == []


async def test_ten_replicas_may_start_at_once(empty_url: URL) -> None:
    environment = {"DATABASE_URL": empty_url.render_as_string(hide_password=False)}
    program = [sys.executable, "-c", "from app.cli import main; main()", "migrate"]
    replicas = [
        subprocess.Popen(
            program,
            env={**environment, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for _ in range(10)
    ]
    outputs = [await asyncio.to_thread(replica.communicate) for replica in replicas]
    assert [replica.returncode for replica in replicas] == [0] * 10, outputs
    engine = create_engine(empty_url, pool_size=3)
    async with transaction(engine) as connection:
        assert await current_revision(connection) == head_revision()
        for table in ("mapping_version", "stripe_line"):
            assert await connection.scalar(text(f"select count(*) from {table}")) == 1
    await engine.dispose()


LATER = ProgramSchema("0003", frozenset({"0001", "0002", "0003"}))


async def _stands_at(engine: AsyncEngine, revision: str) -> None:
    async with transaction(engine) as connection:
        await connection.execute(text("create table alembic_version (version_num text)"))
        await connection.execute(
            text("insert into alembic_version values (:revision)"), {"revision": revision}
        )


@pytest.mark.parametrize("stands", [None, "0001", "0002"])
async def test_an_old_schema_is_refused_by_name(empty_url: URL, stands: str | None) -> None:
    engine = create_engine(empty_url, pool_size=3)
    if stands:
        await _stands_at(engine, stands)
    with pytest.raises(SchemaBehind, match=f"at {stands or 'nothing'}, .* needs 0003: run `mete"):
        await require_head(engine, LATER)
    await engine.dispose()


async def test_a_newer_schema_is_worked_with_and_left_as_it_is(
    empty_url: URL, caplog: pytest.LogCaptureFixture
) -> None:
    """In a rolling deploy the new schema comes before the last old replica goes."""
    engine = create_engine(empty_url, pool_size=3)
    await _stands_at(engine, "9999_later")
    for attempt in range(2):
        assert await require_head(engine) is SchemaState.NEWER
        assert f"at 9999_later, newer than this program's {head_revision()}" in caplog.text
        caplog.clear()
        if attempt == 0:
            assert await migrate(empty_url) is SchemaState.NEWER
            assert "newer than this program's" in caplog.text
    await engine.dispose()


def test_what_the_program_knows_is_what_its_migrations_say() -> None:
    program = ProgramSchema.of_program()
    assert program.head in program.known
    assert len(program.known) == len(list((ROOT / "alembic" / "versions").glob("*.py")))
    assert program.state_of(program.head) is SchemaState.AT_HEAD
    assert program.state_of(None) is SchemaState.BEHIND


async def test_a_migration_does_not_wait_behind_a_lock(empty_url: URL) -> None:
    await migrate(empty_url)
    async with _session(empty_url) as reader, reader.transaction():
        await reader.execute("lock table usage_windows, usage_records in access share mode")
        with pytest.raises(DBAPIError, match="lock timeout"):
            await asyncio.wait_for(
                asyncio.to_thread(command.downgrade, alembic_config(empty_url), "base"), 30
            )
    # All or nothing: the schema stands where its revision says, and from there it goes up again.
    await migrate(empty_url)
    assert await _differences(empty_url) == []


async def test_a_migration_that_met_a_lock_tries_again(
    empty_url: URL, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("app.migrating.PAUSE", 0.05)
    await asyncio.to_thread(command.upgrade, alembic_config(empty_url), "0001")
    async with _session(empty_url) as reader:
        async with reader.transaction():
            await reader.execute("lock table usage_windows, usage_records in access share mode")
            migrating = asyncio.create_task(migrate(empty_url))
            async with asyncio.timeout(60):
                while "a table is locked" not in caplog.text:
                    await asyncio.sleep(0.05)
        assert await migrating is SchemaState.AT_HEAD


async def test_a_migration_lets_a_booking_that_has_begun_end(empty_url: URL) -> None:
    """It takes the tables in booking's order, so that neither has what the other one waits for."""
    await asyncio.to_thread(command.upgrade, alembic_config(empty_url), "0008")
    async with _session(empty_url) as booking:
        async with booking.transaction():
            await booking.execute("select 1 from usage_series for update")
            migrating = asyncio.create_task(migrate(empty_url))
            async with asyncio.timeout(60):
                while not await booking.fetchval(
                    "select count(*) from pg_locks "
                    "where not granted and relation = 'usage_series'::regclass"
                ):
                    assert not migrating.done()
                    await asyncio.sleep(0.02)
            for table in ("usage_windows", "item_periods", "usage_records"):
                await booking.execute(f"select 1 from {table} for update")
            await booking.execute("delete from window_revisions")
        assert await migrating is SchemaState.AT_HEAD


async def test_a_migration_gives_up_on_a_lock_that_stays(
    empty_url: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.migrating.ATTEMPTS", 1)
    await asyncio.to_thread(command.upgrade, alembic_config(empty_url), "0001")
    async with _session(empty_url) as reader, reader.transaction():
        await reader.execute("lock table usage_windows, usage_records in access share mode")
        with pytest.raises(DatabaseUnavailable, match="a table stays locked"):
            await migrate(empty_url)


async def test_a_migration_refuses_a_pooler_by_transaction(empty_url: URL) -> None:
    pooled = empty_url.update_query_dict({"prepared_statement_cache_size": "0"})
    with pytest.raises(SettingsError, match="needs a session of its own"):
        await migrate(pooled)


async def test_no_database_is_said_in_one_line() -> None:
    with pytest.raises(DatabaseUnavailable, match="nothing was migrated"):
        await migrate(URL.create("postgresql+asyncpg", host="127.0.0.1", port=9, database="x"))


async def test_what_the_release_before_had_goes_on(empty_url: URL) -> None:
    """Its windows make their series, and what it could not bill is looked at again."""
    config = alembic_config(empty_url)
    await asyncio.to_thread(command.upgrade, config, "0001")
    engine = create_engine(empty_url, pool_size=3)
    async with transaction(engine) as connection:
        await connection.execute(
            text(
                """
                with told as (
                    insert into deliveries (svix_id, body, body_sha256, message_at, received_at,
                                            state)
                    values ('msg_1', '', '', now(), now(), 'booked') returning id)
                insert into usage_windows (meter, subject, group_key, group_by, window_start,
                    window_end, aggregation, value, subject_contradicts, delivery_id, svix_id,
                    message_at, state, reason)
                select 'tokens', 'customer-1', '\\x00', '{}', starts, starts + longest, 'MAX', 1,
                       contradicts, told.id, 'msg_1', now(), 'parked', reason
                from told, (values
                    (timestamptz '2026-03-01', interval '1 day', false, 'aggregation_unsupported'),
                    ('2026-03-03', '1 hour', false, 'billing_thresholds'),
                    ('2026-03-05', '2 days', true, 'subject_contradicts')
                ) as w (starts, longest, contradicts, reason)
                """
            )
        )
    await migrate(empty_url)
    async with transaction(engine) as connection:
        [series] = (await connection.execute(text("select * from usage_series"))).all()
        released = (await connection.execute(text("select kind, name from window_releases"))).all()
    await engine.dispose()
    assert (series.meter, series.subject) == ("tokens", "customer-1")
    assert series.newest_start == datetime(2026, 3, 3, tzinfo=UTC)
    assert series.newest_end == datetime(2026, 3, 3, 1, tzinfo=UTC)
    assert series.longest == timedelta(days=1)
    assert sorted(released) == [
        ("reason", "aggregation_unsupported"),
        ("reason", "billing_thresholds"),
    ]
