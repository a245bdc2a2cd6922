"""The sender's side of the webhook, and a small app around the route."""

import base64
import hashlib
import hmac
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncEngine

from app.clock import ManualClock
from app.inbox.arriving import ArrivingBodies
from app.inbox.writer import Inbox
from app.observability.refusals import RefusalLog
from app.openmeter.signature import WebhookVerifier
from app.routers.edge import Api
from app.routers.problems import install_problem_handlers
from app.routers.webhooks import router

PATH = "/webhooks/openmeter"
KEY = b"k" * 32
SECRET = "whsec_" + base64.b64encode(KEY).decode()
NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)

Headers = list[tuple[bytes, bytes]]


def report(**members: Any) -> dict[str, Any]:
    """A valid report; `members` replace its own."""
    return {
        "type": "report.meter",
        "usage": [
            {
                "subject": "customer-1",
                "value": 500,
                "groupBy": {"model": "gpt-4"},
                "windowStart": "2023-01-01T00:00:00Z",
                "windowEnd": "2023-01-02T00:00:00Z",
            }
        ],
        "query": {"subject": "customer-1"},
        "meter": {"slug": "ai_tokens", "aggregation": "SUM"},
        **members,
    }


def encoded(whole: object) -> bytes:
    return json.dumps(whole).encode()


def signed(
    body: bytes, message_id: str = "msg_1", *, key: bytes = KEY, family: str = "svix"
) -> Headers:
    """The three headers for a body, signed now."""
    stamp = str(int(time.time()))
    digest = hmac.digest(key, f"{message_id}.{stamp}.".encode() + body, hashlib.sha256)
    return [
        (f"{family}-id".encode(), message_id.encode()),
        (f"{family}-timestamp".encode(), stamp.encode()),
        (f"{family}-signature".encode(), b"v1," + base64.b64encode(digest)),
    ]


@dataclass(frozen=True, slots=True)
class Services:
    verifier: WebhookVerifier | None
    inbox: Inbox
    clock: ManualClock
    counters: Counter[str] = field(default_factory=Counter)
    arriving: ArrivingBodies = field(default_factory=ArrivingBodies)
    refusals: RefusalLog = field(default_factory=RefusalLog)


@dataclass(frozen=True, slots=True)
class Receiver:
    """The app under test, as its sender sees it."""

    app: FastAPI
    client: httpx.AsyncClient
    services: Services

    async def send(
        self, body: bytes, headers: Headers | None = None, *, url: str = PATH
    ) -> httpx.Response:
        return await self.client.post(
            url, content=body, headers=signed(body) if headers is None else headers
        )


@asynccontextmanager
async def receiving(
    engine: AsyncEngine, *, secrets: Iterable[str] = (SECRET,), edge: bool = True
) -> AsyncIterator[Receiver]:
    """The route on a started inbox, behind the edge of the program or bare.

    An error that nobody maps is raised, not answered.
    """
    secrets = tuple(secrets)
    inbox = Inbox(engine, on_committed=lambda: None)
    services = Services(WebhookVerifier(secrets) if secrets else None, inbox, ManualClock(NOW))
    app = Api() if edge else FastAPI()
    app.include_router(router)
    install_problem_handlers(app)
    app.state.services = services
    await inbox.start()
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://bridge") as client:
        try:
            yield Receiver(app, client, services)
        finally:
            await inbox.stop()
