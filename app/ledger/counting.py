"""How many rows of a table are in which state, in a time that does not grow with it. SQL only."""

from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import text

# Beyond this size (about 200,000 windows) rows of the usual state are not counted one by one, which
# took longer than the statement timeout at ten million: their number is what the last vacuum or
# analyze found of all rows, less the others. Each of these has an index of its own.
COUNTED_BYTES: Final = 64 * 1024 * 1024
_ALL: Final = """
    select case when pg_relation_size('{table}') < :counted
           then (select count(*) from {table})
           else (select greatest(reltuples, 0)::bigint from pg_class
                 where oid = '{table}'::regclass) end
"""
_RARE: Final = {
    "deliveries": ("received", "rejected", "failed"),
    "usage_windows": ("pending", "parked", "covered"),
    "usage_records": ("due", "late", "held"),
}


async def counts(
    connection: AsyncConnection,
    table: str,
    column: str,
    *,
    usual: str | None = None,
    where: str | None = None,
) -> dict[str, int]:
    """Rows by what they have in a column: those `where`, or all, of which most are `usual`."""
    if where is None:
        each = " union all ".join(
            f"select state from {table} where state = '{state}'"  # noqa: S608 - constants
            for state in _RARE[table]
        )
        counted = f"select {column}, count(*) from ({each}) t group by 1 order by 1"  # noqa: S608
    else:
        counted = f"select {column}, count(*) from {table} where {where} group by 1 order by 1"  # noqa: S608
    rows = await connection.execute(text(counted))
    found = {name: count for name, count in rows if name is not None}
    if usual is not None:
        total = await connection.scalar(text(_ALL.format(table=table)), {"counted": COUNTED_BYTES})
        found[usual] = max(total - sum(found.values()), 0)
    return dict(sorted((name, count) for name, count in found.items() if count))
