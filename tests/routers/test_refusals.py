"""A flood of refusals is a few lines of log, and no refusal is missing from their counts."""

import asyncio

from structlog.testing import capture_logs

from app.observability.refusals import RefusalLog


async def test_the_first_is_told_at_once_and_a_flood_as_counts() -> None:
    refusals = RefusalLog(interval=0.05)
    with capture_logs() as logs:
        for _ in range(1_000):
            refusals.note("forged")
        refusals.note("another")
        assert [(line["event"], line["count"]) for line in logs] == [("forged", 1), ("another", 1)]
        async with asyncio.timeout(30):
            while sum(line["count"] for line in logs) < 1_001:
                await asyncio.sleep(0.01)
        assert [line["count"] for line in logs] == [1, 1, 999]
        # It is quiet again, so the next one is told at once.
        async with asyncio.timeout(30):
            while len(logs) < 4:
                await asyncio.sleep(0.1)
                refusals.note("forged")
        assert sum(line["count"] for line in logs[3:]) >= 1
