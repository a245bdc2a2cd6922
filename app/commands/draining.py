"""`meterbridge drain`: wait until nothing is left to do."""

import asyncio
import time

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from sqlalchemy.ext.asyncio import AsyncEngine

from app.ledger.status import Backlog, StatusRepository

POLL = 0.25


async def drain(engine: AsyncEngine, *, seconds: float, console: Console) -> Backlog:
    """Wait until the backlog is empty or the time is over. Returns what is left."""
    status = StatusRepository(engine)
    deadline = time.monotonic() + seconds
    with Progress(
        SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=console
    ) as progress:
        task = progress.add_task("looking", total=None)
        while True:
            backlog = await status.backlog()
            progress.update(task, description=describe(backlog))
            if backlog.drained or time.monotonic() >= deadline:
                return backlog
            await asyncio.sleep(POLL)


def describe(backlog: Backlog) -> str:
    """A backlog in one line."""
    return (
        f"{backlog.deliveries} deliveries to book, {backlog.windows} windows pending, "
        f"{backlog.records} records to send"
    )
