"""Replicas of an older program, which would book anew what was pruned. SQL only."""

from datetime import datetime
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import text
from app.health import REPLICA_FORGOTTEN

# An older program raises `seen_at` alone, also on the row of a newer one that had its name.
_OLDER: Final = text(
    """
    select name from replicas
    where seen_at >= :since and heeds_pruning_at is distinct from seen_at
    order by seen_at desc limit 1
    """
)


async def older_replica(connection: AsyncConnection, *, now: datetime) -> str | None:
    """A replica that was seen within a day and does not heed what was pruned, by name."""
    name: str | None = await connection.scalar(_OLDER, {"since": now - REPLICA_FORGOTTEN})
    return name
