"""The embedded server as an asynchronous context manager; the event loop never waits for it."""

import asyncio
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from app.embedded.launcher import start_unless
from app.embedded.server import EmbeddedServer


@asynccontextmanager
async def embedded_postgres(
    data_dir: Path, *, settings: Mapping[str, str] | None = None, existing: bool = False
) -> AsyncIterator[EmbeddedServer]:
    """Start the server of the folder, or attach to it; on leaving, stop what was started.

    Raises what `start` raises, and with `existing` NoCluster where none was made yet.
    """
    given_up = threading.Event()
    starting = asyncio.ensure_future(
        asyncio.to_thread(start_unless, given_up, data_dir, settings=settings, existing=existing)
    )
    try:
        running = await asyncio.shield(starting)
    except asyncio.CancelledError:
        # A thread cannot be cancelled: left alone, it would start a server that nobody stops.
        given_up.set()
        await asyncio.wait([starting])
        if starting.exception() is None:
            await asyncio.to_thread(starting.result().stop)
        raise
    try:
        yield running.server
    finally:
        # Should this be cancelled too, the thread goes on, and asyncio.run() waits for it.
        await asyncio.to_thread(running.stop)
