"""A connection that notes how much of each table the statements on it really read."""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any, cast

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection


class ExplainedConnection:
    """Runs each statement twice: once only to be explained, and undone, and once as it is."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection
        self.read: Counter[str] = Counter()
        self.sequential: set[str] = set()

    @property
    def as_connection(self) -> AsyncConnection:
        """Itself, to be handed to what takes a connection."""
        return cast(AsyncConnection, self)

    async def execute(self, statement: Any, parameters: Any = None) -> Any:
        """Explain, then execute."""
        await self._explain(statement, parameters)
        return await self._connection.execute(statement, parameters)

    async def scalar(self, statement: Any, parameters: Any = None) -> Any:
        """Explain, then execute."""
        await self._explain(statement, parameters)
        return await self._connection.scalar(statement, parameters)

    async def _explain(self, statement: Any, parameters: Any) -> None:
        undone = await self._connection.begin_nested()
        plan = await self._connection.scalar(
            text(f"explain (analyze, timing off, format json) {statement.text}"), parameters
        )
        await undone.rollback()
        for node in _nodes(
            json.loads(plan)[0]["Plan"] if isinstance(plan, str) else plan[0]["Plan"]
        ):
            table = node.get("Relation Name")
            if table is None:
                continue
            rows = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
            self.read[table] += round(rows * node["Actual Loops"])
            if node["Node Type"] == "Seq Scan":
                self.sequential.add(table)


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from _nodes(child)
