"""A sandbox with a few objects in it, spoken to in-process."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs

KEY = "sk_test_sandbox"
AUTH = {"Authorization": f"Bearer {KEY}"}
DAY = 86_400
_SCHEMAS: dict[str, Any] = json.loads((Path(__file__).parent / "answer_schemas.json").read_text())


def unix(text: str) -> int:
    """Unix seconds of an ISO time in UTC."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


START = unix("2026-03-01T00:00:00")
NOW = unix("2026-03-15T12:00:00")
END = unix("2026-04-01T00:00:00")


def assert_shape(document: Any, name: str) -> None:
    """Check an answer against Stripe's description of it."""
    jsonschema_rs.validator_for(_SCHEMAS[name]).validate(document)


def error_of(answer: httpx.Response) -> dict[str, Any]:
    """The `error` object of an answer that must be one."""
    body = answer.json()
    assert_shape(body, "error")
    error: dict[str, Any] = body["error"]
    return error


@dataclass
class World:
    """Calls to one sandbox. `headers` go with every call of Stripe's API."""

    client: httpx.AsyncClient
    headers: dict[str, str] = field(default_factory=lambda: dict(AUTH))

    async def control(self, method: str, path: str, body: object = None) -> Any:
        """Call the control API, which must agree."""
        answer = await self.client.request(method, f"/_sandbox{path}", json=body)
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None

    async def get(self, path: str, **asked: str | int) -> httpx.Response:
        """Read from Stripe's API."""
        return await self.client.get(f"/v1{path}", params=asked, headers=self.headers)

    async def post(
        self, path: str, form: Mapping[str, object], *, key: str | None = None
    ) -> httpx.Response:
        """Write to Stripe's API."""
        headers = self.headers | ({} if key is None else {"Idempotency-Key": key})
        data = {name: str(value) for name, value in form.items()}
        return await self.client.post(f"/v1{path}", data=data, headers=headers)

    async def use(
        self, item: str = "si_1", *, key: str | None = None, **form: object
    ) -> httpx.Response:
        """Post a usage record: 7 at the present second with `set`, unless `form` says otherwise."""
        return await self.use_form(form, item, key=key)

    async def use_form(
        self, form: Mapping[str, object], item: str = "si_1", *, key: str | None = None
    ) -> httpx.Response:
        """The same with a form; what is None in it is left out."""
        sent = {"quantity": 7, "timestamp": NOW, "action": "set"} | dict(form)
        kept = {name: value for name, value in sent.items() if value is not None}
        return await self.post(f"/subscription_items/{item}/usage_records", kept, key=key)

    async def inject(self, kind: str, **fault: object) -> Any:
        """Inject a fault."""
        return await self.control("POST", "/faults", {"kind": kind, **fault})

    async def until_met(self, call: "asyncio.Task[httpx.Response]") -> None:
        """Wait until the first injected fault has met the call, which is then under way."""
        async with asyncio.timeout(20):
            while (await self.control("GET", "/faults"))[0]["met"] == 0:
                await asyncio.wait({call}, timeout=0.005)

    async def set(self, **settings: object) -> None:
        """Change settings."""
        await self.control("PATCH", "/settings", settings)

    async def clock(self, at: int) -> None:
        """Let the clock stand still at a time."""
        await self.control("PUT", "/clock", {"at": at, "frozen": True})

    async def ledger(self) -> list[dict[str, Any]]:
        """The executed usage-record calls."""
        calls: list[dict[str, Any]] = (await self.control("GET", "/ledger"))["calls"]
        return calls

    async def records(self, item: str = "si_1") -> dict[int, int]:
        """What stands in the item's newest period: timestamp -> quantity."""
        totals = (await self.control("GET", "/totals"))["items"]
        [found] = [entry for entry in totals if entry["subscription_item"] == item]
        return {int(at): quantity for at, quantity in found["periods"][0]["records"].items()}

    async def summaries(self, item: str = "si_1", **asked: str | int) -> list[dict[str, Any]]:
        """The item's summaries."""
        answer = await self.get(f"/subscription_items/{item}/usage_record_summaries", **asked)
        assert answer.status_code == 200, answer.text
        data: list[dict[str, Any]] = answer.json()["data"]
        return data
