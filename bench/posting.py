"""The rival of sending: a bare loop of the same HTTP client that POSTs to the sandbox.

No database, no retries, no pace, no audit; only that no two calls to one subscription overlap.

    python -m bench.posting URL KEY ITEMS CONCURRENCY EACH SINCE      says the result
"""

import asyncio
import json
import resource
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import uvloop

from app.main import settle_garbage_collector
from app.stripe_client.exchange import STRIPE_VERSION
from app.stripe_client.transport import open_transport


@dataclass(frozen=True, slots=True)
class Posted:
    """How it went: calls that were answered 200, seconds, seconds of processor time."""

    calls: int
    seconds: float
    cpu: float


async def _post(client: httpx.AsyncClient, items: list[str], each: int, since: int) -> int:
    """POST `each` records of every item, in turns, one after the other."""
    done = 0
    for turn in range(each):
        for item in items:
            timestamp = since + 60 * (turn + 1) - 1
            answer = await client.post(
                f"/v1/subscription_items/{item}/usage_records",
                content=f"quantity=4711&timestamp={timestamp}&action=set".encode(),
                headers={
                    "Content-Type": "application/x-www-form-urlencoded",
                    "Idempotency-Key": f"bench-{item}-{timestamp}",
                },
            )
            answer.raise_for_status()
            answer.json()
            done += 1
    return done


async def _main(
    url: str, key: str, items: list[str], concurrency: int, each: int, since: int
) -> None:
    async with httpx.AsyncClient(
        base_url=url,
        headers={"Authorization": f"Bearer {key}", "Stripe-Version": STRIPE_VERSION},
        transport=open_transport(max_connections=concurrency),
        timeout=30.0,
    ) as client:
        lanes = [items[lane::concurrency] for lane in range(concurrency)]
        settle_garbage_collector()
        before = resource.getrusage(resource.RUSAGE_SELF)
        began = time.perf_counter()
        calls = sum(await asyncio.gather(*(_post(client, lane, each, since) for lane in lanes)))
        seconds = time.perf_counter() - began
        after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    sys.stdout.write(json.dumps(asdict(Posted(calls, seconds, cpu))) + "\n")


if __name__ == "__main__":
    address, api_key, path, at_once, turns, start = sys.argv[1:]
    names = Path(path).read_text().split()
    uvloop.run(_main(address, api_key, names, int(at_once), int(turns), int(start)))
