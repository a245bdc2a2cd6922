"""Millions of rows of history, made in the database out of rows that the program itself wrote.

Every subject has one booked and reported window; each is copied as often as wanted, with another
time and other ids. So the rows are what the program would have written, whatever the schema of the
day is, and they belong to the very subscriptions, series and periods that are worked on afterwards.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from bench.database import Connection, Database

# As the superuser: rows are put in without looking each reference up, and indexes are built after.
_PREPARE = (
    "set session_replication_role = replica",
    "set synchronous_commit = off",
    "set maintenance_work_mem = '512MB'",
    "set max_parallel_maintenance_workers = 1",
)
_TABLES = ("deliveries", "usage_windows", "usage_records", "attempts")
# A subject's n-th copy (from 1) in the ids of all: `o` is the subject's number, counted from 0.
_NUMBER = "(o * {each} + n)"


@dataclass(frozen=True, slots=True)
class _Index:
    """An index or the constraint that it serves: how to take it away, and how to build it."""

    drop: str
    build: str


async def multiply(database: Database, each: int) -> None:
    """Give every subject `each` more windows, records and attempts, and an eighth of deliveries."""
    async with database.connect(superuser=True) as connection:
        for statement in _PREPARE:
            await connection.execute(statement)
        for table in _TABLES:
            await connection.execute(f"alter table {table} set (autovacuum_enabled = off)")
        base = {
            table: int(await connection.fetchval(f"select max(id) from {table}"))
            for table in _TABLES
        }
        removed = {table: await _drop_indexes(connection, table) for table in _TABLES}
        await connection.execute(_ORDINALS)
        for table in _TABLES:
            await connection.execute(await _copy(connection, table, each, base))
            await connection.execute(
                f"select setval(pg_get_serial_sequence('{table}', 'id'), max(id)) from {table}"
            )
            # Before the indexes: one pass over the pages, and their build changes none.
            await connection.execute(f"vacuum (freeze, analyze) {table}")
        for table in _TABLES:
            for index in removed[table]:
                await connection.execute(index.build)
        await connection.execute(_TOTALS.format(each=each))
        await connection.execute(_SERIES.format(each=each))
        await connection.execute("drop table ordinals")
        for table in _TABLES:
            await connection.execute(f"alter table {table} reset (autovacuum_enabled)")
        await connection.execute("vacuum (analyze) item_periods, usage_series")
        await connection.execute("checkpoint")


_ORDINALS = """
    create table ordinals as
    select row_number() over (order by w.id) - 1 as o, w.id as usage_windows,
           w.usage_record_id as usage_records, w.delivery_id as deliveries, a.id as attempts
    from usage_windows w join attempts a on a.usage_record_id = w.usage_record_id
"""
# Every copy counts what its original counts.
_TOTALS = """
    update item_periods set exact_numerator = exact_numerator * ({each} + 1),
        rounded_total = rounded_total * ({each} + 1)
"""
_SERIES = """
    update usage_series set newest_start = newest_start + {each} * interval '1 minute',
        newest_end = newest_end + {each} * interval '1 minute'
"""


async def _drop_indexes(connection: Connection, table: str) -> list[_Index]:
    """Take away all indexes but the primary key: built at the end they cost a tenth."""
    constraints = await connection.fetch(
        "select conname as name, pg_get_constraintdef(oid) as definition from pg_constraint "
        "where conrelid = $1::regclass and contype = 'u'",
        table,
    )
    indexes = await connection.fetch(
        "select indexrelid::regclass::text as name, pg_get_indexdef(indexrelid) as definition "
        "from pg_index i where indrelid = $1::regclass and not indisprimary "
        "and not exists (select from pg_constraint c where c.conindid = i.indexrelid)",
        table,
    )
    found = [
        _Index(
            f"alter table {table} drop constraint {row['name']}",
            f"alter table {table} add constraint {row['name']} {row['definition']}",
        )
        for row in constraints
    ]
    found += [_Index(f"drop index {row['name']}", row["definition"]) for row in indexes]
    for index in found:
        await connection.execute(index.drop)
    return found


async def _copy(connection: Connection, table: str, each: int, base: Mapping[str, int]) -> str:
    """The statement that copies a table's rows."""
    number = _NUMBER.format(each=each)
    changed = {
        "deliveries": {"id": number, "svix_id": "svix_id || '-' || n"},
        "usage_windows": {
            "id": number,
            "window_start": "window_start + n * interval '1 minute'",
            "window_end": "window_end + n * interval '1 minute'",
            "usage_record_id": f"{base['usage_records']} + {number}",
            "delivery_id": f"{base['deliveries']} + o * {each} + (n - 1) / 8 * 8 + 1",
        },
        "usage_records": {"id": number, "timestamp": "t.timestamp + n * 60"},
        "attempts": {
            "id": number,
            "usage_record_id": f"{base['usage_records']} + {number}",
            "idempotency_key": "idempotency_key || '-' || n",
        },
    }[table]
    changed["id"] = f"{base[table]} + {number}"
    columns = await _columns(connection, table)
    values = [changed.get(column, f"t.{column}") for column in columns]
    step = 8 if table == "deliveries" else 1
    return f"""
        insert into {table} ({", ".join(columns)}) overriding system value
        select {", ".join(values)}
        from ordinals join {table} t on t.id = ordinals.{table}
        cross join generate_series(1, {each}, {step}) as n
    """


async def _columns(connection: Connection, table: str) -> list[str]:
    rows = await connection.fetch(
        "select attname from pg_attribute where attrelid = $1::regclass and attnum > 0 "
        "and not attisdropped and attgenerated = '' order by attnum",
        table,
    )
    return [row["attname"] for row in rows]
