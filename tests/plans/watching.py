"""What the program asks of the database, and how the database goes about it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final
from unittest.mock import patch

import asyncpg
from sqlalchemy import event
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine

LARGE: Final = frozenset(
    {
        "attempts",
        "carries",
        "deliveries",
        "item_periods",
        "subject_mappings",
        "subscription_lanes",
        "usage_records",
        "usage_series",
        "usage_windows",
        "window_revisions",
    }
)
_EXPLAINED: Final = ("select", "insert", "update", "delete", "with")


@dataclass(frozen=True, slots=True)
class Asked:
    """A statement as it went to the database."""

    sql: str
    arguments: tuple[Any, ...]

    @property
    def line(self) -> str:
        """Its beginning, for messages."""
        return " ".join(self.sql.split())[:160]


@contextmanager
def watched(*engines: AsyncEngine) -> Iterator[list[Asked]]:
    """The statements that go through some engines, each once."""
    found: dict[str, Asked] = {}

    def note(_conn: Any, _cursor: Any, sql: str, arguments: Any, *_: Any) -> None:
        found.setdefault(sql, Asked(sql, tuple(arguments)))
        asked[:] = found.values()

    fetch = asyncpg.Connection.fetch

    async def noted(driver: Any, sql: str, *arguments: Any, **more: Any) -> Any:
        """What goes to the driver itself, past SQLAlchemy: of all engines."""
        note(None, None, sql, arguments)
        return await fetch(driver, sql, *arguments, **more)

    asked: list[Asked] = []
    for engine in engines:
        event.listen(engine.sync_engine, "before_cursor_execute", note)
    try:
        with patch.object(asyncpg.Connection, "fetch", noted):
            yield asked
    finally:
        for engine in engines:
            event.remove(engine.sync_engine, "before_cursor_execute", note)


@dataclass(frozen=True, slots=True)
class Plan:
    """How a statement is carried out: what is read from end to end, and by which indexes."""

    asked: Asked
    scanned: frozenset[str]
    indexes: frozenset[str]


async def plans(url: URL, asked: list[Asked]) -> list[Plan]:
    """The plans of statements. Nothing is carried out."""
    address = url.set(drivername="postgresql").render_as_string(hide_password=False)
    connection = await asyncpg.connect(address)
    try:
        return [
            await _plan(connection, one)
            for one in asked
            if one.sql.lstrip().split()[0].lower() in _EXPLAINED
        ]
    finally:
        await connection.close()


async def _plan(connection: "asyncpg.Connection[Any]", asked: Asked) -> Plan:
    found = await connection.fetchval(f"explain (format json) {asked.sql}", *asked.arguments)
    steps = list(nodes(json.loads(found)))
    return Plan(
        asked,
        frozenset(
            node["Relation Name"]
            for node in steps
            if node["Node Type"] in ("Seq Scan", "Parallel Seq Scan")
        )
        & LARGE,
        frozenset(node["Index Name"] for node in steps if "Index Name" in node),
    )


def nodes(explained: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """All steps of a plan, as `explain (format json)` tells it."""
    waiting = [explained[0]["Plan"]]
    while waiting:
        node = waiting.pop()
        yield node
        waiting += node.get("Plans", ())
