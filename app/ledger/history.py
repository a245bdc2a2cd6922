"""History: every revision of a window that does not stand (any more) is kept, with its delivery.

`replay` decides, and is pure: revisions are looked at one by one in the order of their arrival,
so that the history does not depend on how they were put into batches.
"""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Final, NamedTuple

from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import text
from app.mapping.resolution import WindowSource

# What was queried before the window ended gives way to any delivery. No delivery takes the place
# of a part of another window, or of a whole period's value: those count by rules of their own.
_RANK: Final = {
    WindowSource.FLUSH: 0,
    WindowSource.WEBHOOK: 1,
    WindowSource.PART: 2,
    WindowSource.PERIOD: 2,
}


class Verdict(StrEnum):
    """Why a revision does not stand."""

    SUPERSEDED = "superseded"  # a newer one took its place
    OLDER = "older"  # it came after a newer one


class Revision(NamedTuple):
    """The value of a window as one delivery, or OpenMeter's query API, told it."""

    value: Decimal
    aggregation: str
    source: WindowSource
    delivery_id: int | None
    svix_id: str
    message_at: datetime

    @property
    def order(self) -> tuple[int, datetime, str]:
        """The greatest stands: by message time, then by id, so that arrival decides nothing."""
        return _RANK[self.source], self.message_at, self.svix_id

    def tells_the_same(self, other: "Revision") -> bool:
        """Whether nothing is to be booked anew between the two."""
        return self.value == other.value and self.aggregation == other.aggregation


class Replayed(NamedTuple):
    """What stands in the end, and what does not. `changes`: how often the value was replaced."""

    standing: Revision
    changes: int
    others: tuple[tuple[Revision, Verdict], ...]


def replay(standing: Revision | None, arriving: Sequence[Revision]) -> Replayed:
    """Let revisions arrive one after the other where `standing` stands.

    One that tells what stands anyway is nothing: if it is newer it takes the place unseen.
    Raises ValueError where there is no revision at all.
    """
    changes = 0
    others: list[tuple[Revision, Verdict]] = []
    for revision in arriving:
        if standing is None:
            standing = revision
        elif revision.order > standing.order:
            if not revision.tells_the_same(standing):
                others.append((standing, Verdict.SUPERSEDED))
                changes += 1
            standing = revision
        elif not revision.tells_the_same(standing):
            others.append((revision, Verdict.OLDER))
    if standing is None:
        raise ValueError("a window without a revision")
    return Replayed(standing, changes, tuple(others))


async def write_history(
    connection: AsyncConnection,
    entries: Sequence[tuple[int, Revision, Verdict]],
    *,
    now: datetime,
) -> None:
    """Keep revisions that do not stand: (window id, revision, why)."""
    if not entries:
        return
    await connection.execute(
        text(
            """
            insert into window_revisions (
                usage_window_id, value, aggregation, source, delivery_id, svix_id, message_at,
                verdict, kept_at)
            select t.*, cast(:now as timestamptz) from unnest(
                cast(:usage_window_id as bigint[]), cast(:value as numeric[]),
                cast(:aggregation as text[]), cast(:source as text[]),
                cast(:delivery_id as bigint[]), cast(:svix_id as text[]),
                cast(:message_at as timestamptz[]), cast(:verdict as text[])) as t
            """
        ),
        {
            "now": now,
            "usage_window_id": [window for window, _, _ in entries],
            "value": [revision.value for _, revision, _ in entries],
            "aggregation": [revision.aggregation for _, revision, _ in entries],
            "source": [revision.source for _, revision, _ in entries],
            "delivery_id": [revision.delivery_id for _, revision, _ in entries],
            "svix_id": [revision.svix_id for _, revision, _ in entries],
            "message_at": [revision.message_at for _, revision, _ in entries],
            "verdict": [verdict for _, _, verdict in entries],
        },
    )
