"""The line to Stripe: open, or stopped for a reason. One row, shared by all replicas.

A stopped line is probed by one call at a time, of one worker, with growing pauses; the first
success opens it again. While it stands still no attempt of any record is used up.
"""

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import text
from app.dispatch.reasons import STOP_ACTIONS, StopReason

logger = logging.getLogger(__name__)

# Failures in a row, with no success of any record between, that say it is not the records.
OUTAGE_AFTER = 5
FIRST_PROBE = 1.0
LONGEST_PROBE = 30.0
# The one that probes says every second that it still does: one that dies does not stop the probing.
PROBE_PATIENCE = timedelta(seconds=5)


@dataclass(frozen=True, slots=True)
class Line:
    """The line as the database has it."""

    stopped: bool
    reason: str | None = None
    detail: str | None = None
    since: datetime | None = None
    probe_at: datetime | None = None


def probe_delay(failures: int) -> float:
    """Seconds until the next probe, after so many failed ones."""
    return float(min(FIRST_PROBE * 2.0 ** min(failures, 10), LONGEST_PROBE))


async def read_line(connection: AsyncConnection) -> Line:
    """The present state of the line."""
    row = (
        await connection.execute(
            text("select stopped, reason, detail, since, probe_at from stripe_line where id = 1")
        )
    ).one()
    return Line(row.stopped, row.reason, row.detail, row.since, row.probe_at)


async def take_probe(connection: AsyncConnection, *, now: datetime) -> bool:
    """Whether this worker is the one that may probe now."""
    taken = await connection.execute(
        text(
            """
            update stripe_line set probe_at = :again
            where id = 1 and stopped and probe_at <= :now
            """
        ),
        {"now": now, "again": now + PROBE_PATIENCE},
    )
    return taken.rowcount == 1


async def keep_probe(connection: AsyncConnection, *, now: datetime) -> None:
    """The probe that this worker took is still under way."""
    await connection.execute(
        text("update stripe_line set probe_at = :again where id = 1 and stopped"),
        {"again": now + PROBE_PATIENCE},
    )


async def return_probe(connection: AsyncConnection, *, now: datetime) -> None:
    """There was nothing to probe with: the next due record may."""
    await connection.execute(
        text("update stripe_line set probe_at = :now where id = 1 and stopped"), {"now": now}
    )


async def stop_line(
    connection: AsyncConnection,
    reason: StopReason,
    detail: str,
    *,
    now: datetime,
    probed: bool = False,
) -> None:
    """Stop the line, or note that a probe failed. `detail` is for operators, without secrets.

    Other calls that fail while it stands still (a hundred may have been in flight when Stripe went
    away) change nothing: each would put off the next probe.
    """
    stopped, failures = (
        await connection.execute(
            text("select stopped, failures from stripe_line where id = 1 for update")
        )
    ).one()
    if stopped and not probed:
        return
    if not stopped:
        logger.error(
            "the line to Stripe is stopped: %s (%s). %s", reason, detail, STOP_ACTIONS[reason]
        )
    await connection.execute(
        text(
            """
            update stripe_line set stopped = true, reason = :reason, detail = :detail,
                since = case when stopped then since else cast(:now as timestamptz) end,
                probe_at = :probe_at, failures = failures + 1
            where id = 1
            """
        ),
        {
            "reason": reason.value,
            "detail": detail[:500],
            "now": now,
            "probe_at": now + timedelta(seconds=probe_delay(failures)),
        },
    )


async def open_line(connection: AsyncConnection) -> bool:
    """Open the line. Returns whether it was stopped."""
    opened = await connection.execute(
        text(
            """
            update stripe_line set stopped = false, reason = null, detail = null, since = null,
                probe_at = null, failures = 0
            where id = 1 and stopped
            """
        )
    )
    return opened.rowcount == 1


async def probe_soon(connection: AsyncConnection, *, now: datetime) -> None:
    """A worker started, perhaps with a mended key: probe at once."""
    await connection.execute(
        text("update stripe_line set probe_at = :now, failures = 0 where id = 1 and stopped"),
        {"now": now},
    )
