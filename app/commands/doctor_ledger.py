"""The doctor at the database: is it there, does it take writes, and what waits in it."""

import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import datetime
from typing import TypeVar

import asyncpg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.bootstrap import database
from app.clock import SystemClock
from app.commands.doctor_findings import Finding, Level, Tell
from app.commands.doctor_session import session_findings
from app.config import Settings
from app.database_login import CHECK_ADDRESS, next_step
from app.db import ProgramSchema, create_engine
from app.dispatch.reasons import STOP_ACTIONS, StopReason, hold_action_of
from app.embedded import NoCluster
from app.errors import DatabaseUnavailable, MeterbridgeError
from app.health import Check, Health
from app.ledger.status import LineRow, StatusRepository, Summary
from app.mapping.file import Mappings
from app.mapping.fitting import MappingNote, whole_periods
from app.mapping.reasons import ParkReason, action_of
from app.mapping.repository import MappingRepository

T = TypeVar("T")

_ADDRESS = "DATABASE_URL names no database that can be used"
_MEND_EMBEDDED = "Set METERBRIDGE_DATA_DIR to a folder that can be used, or DATABASE_URL."
_MAKE_EMBEDDED = "Set DATABASE_URL; or, for a trial, start `meterbridge serve` once before."
# Checks of readiness that say all there is; the line is told with its reason instead.
_READINESS = {
    "database": CHECK_ADDRESS,
    "schema": "Run `meterbridge migrate`.",
    "oldest_unbooked": "See whether `meterbridge serve` or `worker` runs, and what its log says.",
    "oldest_unsent": "See whether `meterbridge serve` or `worker` runs, and whether it can send.",
}


class Ledger:
    """The database of the settings, for one look."""

    def __init__(self, settings: Settings, stack: AsyncExitStack, tell: Tell) -> None:
        self._settings = settings
        self._stack = stack
        self._tell = tell

    async def reach(self, now: datetime) -> AsyncEngine | None:
        """An engine on a database that is in order. None, and a finding, where it is not."""
        return await self._told(lambda: self._reach(now))

    async def _reach(self, now: datetime) -> AsyncEngine | None:
        url = await self._stack.enter_async_context(database(self._settings, existing=True))
        engine = create_engine(url, pool_size=3)
        self._stack.push_async_callback(engine.dispose)
        for finding in await session_findings(engine):
            self._tell(finding)
        name = f"doctor:{socket.gethostname()}:{os.getpid()}"
        checks, _ = await Health(engine, name, ProgramSchema.of_program()).check(now)
        for check in checks:
            if check.name in _READINESS:
                self._tell(_readiness_finding(check))
        return engine if all(check.ok for check in checks if check.receiving) else None

    async def waiting(self, engine: AsyncEngine) -> None:
        """Tell whether the line is open, and what waits for somebody to act."""
        status = StatusRepository(engine)

        async def look() -> None:
            self._tell(line_finding(await status.line()))
            for finding in summary_findings(await status.summary()):
                self._tell(finding)

        await self._told(look)

    async def mappings(self, engine: AsyncEngine) -> Mappings | None:
        """All mappings, and whether there are any."""
        repository = MappingRepository(engine)
        found = await self._told(repository.everything)
        if found is None:
            return None
        self._tell(mappings_finding(found))
        standing = found
        applied = await self._told(lambda: repository.preview(standing, now=SystemClock().now()))
        openmeter_api = self._settings.openmeter_api_url is not None
        for note in whole_periods(found, openmeter_api=openmeter_api):
            self._tell(note_finding(note, "Set OPENMETER_API_URL, or take whole_period out."))
        for note in applied.notes if applied else ():
            self._tell(note_finding(note, action_of(ParkReason.AGGREGATION_MISMATCH)))
        return found

    async def _told(self, look: Callable[[], Awaitable[T]]) -> T | None:
        try:
            return await look()
        except Exception as error:  # noqa: BLE001 - what a driver makes of a wrong address is a finding
            embedded = self._settings.database_url is None
            action = _MEND_EMBEDDED if embedded else next_step(error)
            if isinstance(error, NoCluster):
                action = _MAKE_EMBEDDED
            self._tell(Finding("database", Level.PROBLEM, why(error), action))
            return None


def why(error: BaseException) -> str:
    """Why the database cannot be used, without any part of its address: that holds a password."""
    if isinstance(error, DatabaseUnavailable):
        return why(error.__cause__) if error.__cause__ else error.detail
    if isinstance(error, MeterbridgeError):
        return error.detail
    if isinstance(error, TimeoutError):
        return "it does not answer in time"
    if isinstance(error, DBAPIError) and error.orig is not None:
        return _first_line(error.orig)
    if isinstance(error, OSError | asyncpg.PostgresError):
        return _first_line(error)
    return f"{_ADDRESS} ({type(error).__name__})"


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _readiness_finding(check: Check) -> Finding:
    if check.ok:
        return Finding(check.name, Level.OK, check.detail)
    return Finding(check.name, Level.PROBLEM, check.detail, _READINESS[check.name])


def line_finding(line: LineRow) -> Finding:
    """Whether anything may be sent."""
    if not line.stopped or line.reason is None:
        return Finding("line", Level.OK, "open")
    since = f" since {line.since:%Y-%m-%d %H:%M} UTC" if line.since else ""
    said = f": {line.detail}" if line.detail else ""
    return Finding(
        "line",
        Level.PROBLEM,
        f"stopped{since}, {line.reason}{said}",
        STOP_ACTIONS[StopReason(line.reason)],
    )


def summary_findings(summary: Summary) -> list[Finding]:
    """What waits for somebody to act: by reason, with the action."""
    found = [
        Finding(
            "parked",
            Level.OK if reason == ParkReason.PERIOD_NOT_OPEN else Level.WARNING,
            f"{count} usage windows: {reason}",
            action_of(reason),
        )
        for reason, count in summary.parked.items()
    ] or [Finding("parked", Level.OK, "no usage window is parked")]
    found += [
        Finding(
            "held",
            Level.PROBLEM,
            f"{count} usage records: {reason}",
            hold_action_of(reason),
        )
        for reason, count in summary.held.items()
    ] or [Finding("held", Level.OK, "no usage record is held")]
    failed = summary.deliveries.get("failed", 0)
    rejected = summary.deliveries.get("rejected", 0)
    if failed:
        found.append(
            Finding(
                "deliveries",
                Level.PROBLEM,
                f"{failed} could not be booked",
                "GET /v1/deliveries?state=failed says why; then POST /v1/deliveries/release.",
            )
        )
    if rejected:
        found.append(
            Finding(
                "deliveries",
                Level.WARNING,
                f"{rejected} were answered 422 and are kept as rejected",
                "GET /v1/deliveries?state=rejected says which and why; mend the cause at the "
                "sender, and resend them from there.",
            )
        )
    return found


def mappings_finding(mappings: Mappings) -> Finding:
    """Whether there is anything to book by."""
    detail = f"{len(mappings.meters)} meters, {len(mappings.subjects)} subjects"
    if mappings.meters and mappings.subjects:
        return Finding("mappings", Level.OK, detail)
    return Finding(
        "mappings",
        Level.WARNING,
        f"{detail}: all usage is parked",
        "Write a mapping file and run `meterbridge mappings apply FILE`.",
    )


def note_finding(note: MappingNote, action: str) -> Finding:
    """A meter whose usage is parked because of its mapping."""
    return Finding("mappings", Level.WARNING, f"{note.name}: {note.message}", action)
