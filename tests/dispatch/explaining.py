"""A connection that notes how much of each table the statements on it really read."""

from collections import Counter
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

from sqlalchemy.ext.asyncio import AsyncConnection


class ExplainedConnection:
    """Runs each statement of the driver twice: once only to be explained, and undone, and once as
    it is."""

    def __init__(self, connection: AsyncConnection) -> None:
        assert connection.sync_connection is not None
        pooled = connection.sync_connection.connection
        self._driver = cast(Any, pooled.driver_connection)
        self.sync_connection = SimpleNamespace(
            connection=SimpleNamespace(
                driver_connection=self, dbapi_connection=pooled.dbapi_connection
            )
        )
        self.transaction = self._driver.transaction
        self.read: Counter[str] = Counter()
        self.sequential: set[str] = set()

    @property
    def as_connection(self) -> AsyncConnection:
        """Itself, to be handed to what takes a connection."""
        return cast(AsyncConnection, self)

    async def fetch(self, statement: str, *arguments: object, **more: Any) -> Any:
        """Explain, then execute."""
        undone = self._driver.transaction()
        await undone.start()
        plan = await self._driver.fetchval(
            f"explain (analyze, timing off, format json) {statement}", *arguments
        )
        await undone.rollback()
        for node in _nodes(plan[0]["Plan"]):
            table = node.get("Relation Name")
            if table is None:
                continue
            rows = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
            self.read[table] += round(rows * node["Actual Loops"])
            if node["Node Type"] == "Seq Scan" and node["Actual Loops"]:
                self.sequential.add(table)
        return await self._driver.fetch(statement, *arguments, **more)


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from _nodes(child)
