"""The sandbox from behind: objects, faults, what was executed. It waits while it is paused."""

import asyncio
from typing import Any

import httpx

from tests.chaos.account import Period
from tests.chaos.books import Call

PATIENCE = 60.0
USAGE_RECORDS = {"operation": "create_usage_record"}


class Stripe:
    """The sandbox's control API."""

    def __init__(self, url: str) -> None:
        self.url = url
        # A connection each: one that was idle may be closed by the sandbox at this very moment.
        self._http = httpx.AsyncClient(
            base_url=f"{url}/_sandbox",
            trust_env=False,
            timeout=PATIENCE,
            limits=httpx.Limits(max_keepalive_connections=0),
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def control(self, method: str, path: str, body: object = None) -> Any:
        """Call the control API, which must agree."""
        answer = await self._http.request(method, path, json=body)
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None

    async def inject(self, fault: dict[str, Any]) -> str:
        """Inject a fault into the writing of usage records; returns its id."""
        injected = await self.control("POST", "/faults", {"match": USAGE_RECORDS, **fault})
        identifier: str = injected["id"]
        return identifier

    async def faults(self) -> dict[str, dict[str, Any]]:
        """The faults that were not taken away, by id."""
        return {fault["id"]: fault for fault in await self.control("GET", "/faults")}

    async def executed(self) -> int:
        """How many usage-record calls were executed."""
        total: int = (await self.control("GET", "/ledger?limit=1"))["total"]
        return total

    async def calls(self) -> list[Call]:
        """All executed usage-record calls, in order."""
        return [Call.of(entry) for entry in (await self.control("GET", "/ledger"))["calls"]]

    async def periods(self) -> dict[str, list[Period]]:
        """Every item's billing periods, newest first."""
        return {
            item["subscription_item"]: [Period(p["start"], p["end"]) for p in item["periods"]]
            for item in (await self.control("GET", "/totals"))["items"]
        }

    async def totals(self) -> dict[str, dict[int, int]]:
        """Item -> start of a period -> its total by Stripe's own word, where it has records."""
        return {
            item["subscription_item"]: {
                period["start"]: period["total_usage"]
                for period in item["periods"]
                if period["records"]
            }
            for item in (await self.control("GET", "/totals"))["items"]
            if any(period["records"] for period in item["periods"])
        }

    async def settled(self, *, quiet: float) -> int:
        """Wait until nothing was executed for so many seconds; returns how many calls were."""
        while True:
            before = await self.executed()
            await asyncio.sleep(quiet)
            if await self.executed() == before:
                return before

    async def put_clock(self, at: int) -> None:
        """Put the sandbox's clock; it runs on from there."""
        await self.control("PUT", "/clock", {"at": at})
