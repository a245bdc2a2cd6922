"""Replicas of an older program, which would book anew what was pruned. SQL only."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import text
from app.health import REPLICA_FORGOTTEN

# An older program raises `seen_at` alone, also on the row of a newer one that had its name.
_OLDER: Final = text(
    """
    select name, seen_at from replicas
    where seen_at >= :since and heeds_pruning_at is distinct from seen_at
    order by seen_at desc limit 1
    """
)


@dataclass(frozen=True, slots=True)
class OlderReplica:
    """A replica that does not heed what was pruned, and until when it counts as being at work."""

    name: str
    until: datetime


async def older_replica(connection: AsyncConnection, *, now: datetime) -> OlderReplica | None:
    """The one that was seen last, if within a day."""
    found = await connection.execute(_OLDER, {"since": now - REPLICA_FORGOTTEN})
    row = found.one_or_none()
    return OlderReplica(row.name, row.seen_at + REPLICA_FORGOTTEN) if row is not None else None
