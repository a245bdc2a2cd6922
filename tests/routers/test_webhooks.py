"""The webhook route: each outcome, its answer and what is stored."""

import asyncio
import socket
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine
from structlog.testing import capture_logs

from app.db import create_engine
from tests.inbox.deliveries import set_state, stored
from tests.openmeter.ksuid import message_id
from tests.routers.webhook_sender import (
    PATH,
    SECRET,
    Receiver,
    encoded,
    receiving,
    report,
    signed,
)

BODY = encoded(report())


@pytest.fixture
async def receiver(engine: AsyncEngine) -> AsyncIterator[Receiver]:
    async with receiving(engine) as receiver:
        yield receiver


@pytest.mark.parametrize("url", [PATH, PATH + "/"])
@pytest.mark.parametrize("family", ["svix", "webhook"])
async def test_a_report_is_committed_and_accepted(
    receiver: Receiver, engine: AsyncEngine, url: str, family: str
) -> None:
    answer = await receiver.send(BODY, signed(BODY, family=family), url=url)
    assert (answer.status_code, answer.text) == (202, '{"status":"accepted"}')
    assert answer.headers["content-type"] == "application/json"
    (row,) = await stored(engine)
    assert (row.svix_id, row.body, row.state) == ("msg_1", BODY, "received")


async def test_the_same_again_is_a_duplicate_in_every_state(
    receiver: Receiver, engine: AsyncEngine
) -> None:
    await receiver.send(BODY)
    for state in ("received", "booked", "failed"):
        await set_state(engine, "msg_1", state)
        answer = await receiver.send(BODY)
        assert (answer.status_code, answer.text) == (200, '{"status":"duplicate"}')
    assert len(await stored(engine)) == 1
    assert receiver.services.counters == {"webhook_accepted": 1, "webhook_duplicate": 3}


async def test_a_hundred_at_once_are_accepted_once(receiver: Receiver) -> None:
    answers = await asyncio.gather(*(receiver.send(BODY) for _ in range(100)))
    assert sorted(answer.status_code for answer in answers) == [200] * 99 + [202]


async def test_another_body_under_the_same_id_is_an_alarm(
    receiver: Receiver, engine: AsyncEngine
) -> None:
    await receiver.send(BODY)
    with capture_logs() as logs:
        answer = await receiver.send(encoded(report(usage=[])))
    assert answer.status_code == 409
    assert answer.json()["type"] == "urn:meterbridge:problem:delivery-conflict"
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [
        ("delivery_conflict", "error")
    ]
    assert [row.body for row in await stored(engine)] == [BODY]


async def test_another_body_under_a_rejected_id_is_an_alarm_too(
    receiver: Receiver, engine: AsyncEngine
) -> None:
    wrong = encoded(report(meter={}))
    assert (await receiver.send(wrong)).status_code == 422
    with capture_logs() as logs:
        assert (await receiver.send(BODY)).status_code == 409
    assert [entry["event"] for entry in logs] == ["delivery_conflict"]
    assert [(row.body, row.state) for row in await stored(engine)] == [(wrong, "rejected")]


async def test_what_cannot_be_read_is_kept(receiver: Receiver, engine: AsyncEngine) -> None:
    wrong = encoded(report(meter={}))
    for _ in range(2):
        answer = await receiver.send(wrong)
        assert answer.status_code == 422
        assert answer.json() == {
            "type": "urn:meterbridge:problem:invalid-report",
            "title": "The body is not a valid usage report",
            "status": 422,
            "detail": "The body is not a valid usage report",
            "faults": [{"path": "meter.slug", "message": "is missing"}],
        }
    (row,) = await stored(engine)
    assert (row.state, row.body) == ("rejected", wrong)
    assert row.faults == [{"path": "meter.slug", "message": "is missing"}]


async def test_what_was_rejected_goes_through_once_this_program_can_read_it(
    receiver: Receiver, engine: AsyncEngine
) -> None:
    await receiver.send(BODY)
    await set_state(engine, "msg_1", "rejected")  # as a release that could not read it left it
    assert (await receiver.send(BODY)).status_code == 202
    (row,) = await stored(engine)
    assert (row.state, row.body, row.faults) == ("received", BODY, None)


async def test_the_messages_time_is_that_of_its_id(receiver: Receiver, engine: AsyncEngine) -> None:
    """Not that of the attempt (now), nor that of the receipt (the clock's)."""
    created = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=10)
    await receiver.send(BODY, signed(BODY, message_id(created)))
    (row,) = await stored(engine)
    assert row.message_at == created


@pytest.mark.parametrize(
    "kind", ["entitlements.balance.threshold", "entitlements.reset", "invoice.created"]
)
async def test_other_products_messages_are_acknowledged_and_not_stored(
    receiver: Receiver, engine: AsyncEngine, kind: str
) -> None:
    body = encoded({"id": "1", "type": kind, "timestamp": "2023-01-01T00:00:00Z", "data": {}})
    answer = await receiver.send(body)
    assert (answer.status_code, answer.text) == (202, '{"status":"ignored"}')
    assert await stored(engine) == []
    assert receiver.services.counters == {"webhook_ignored": 1}


async def test_an_unknown_type_is_refused_in_the_published_words(
    receiver: Receiver, engine: AsyncEngine
) -> None:
    answer = await receiver.send(encoded({"type": "report.unheard"}))
    assert answer.status_code == 400
    assert answer.json()["detail"] == "Unknown event type"
    assert await stored(engine) == []


async def test_without_a_secret_nothing_is_accepted(engine: AsyncEngine) -> None:
    async with receiving(engine, secrets=()) as receiver:
        answer = await receiver.send(BODY)
        assert answer.status_code == 503
        assert answer.json()["type"] == "urn:meterbridge:problem:not-configured"
        assert answer.headers["retry-after"] == "60"
    assert await stored(engine) == []


async def test_a_database_that_is_away_is_a_503_with_retry_after() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        url = URL.create("postgresql+asyncpg", "x", "x", "127.0.0.1", port, "x")
        engine = create_engine(url, pool_size=3)
        async with receiving(engine) as receiver:
            answer = await receiver.send(BODY)
        await engine.dispose()
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["retry-after"] == "5"


async def test_a_full_or_closed_inbox_is_a_503_with_retry_after(receiver: Receiver) -> None:
    await receiver.services.inbox.stop()
    answer = await receiver.send(BODY)
    assert answer.status_code == 503
    assert answer.json()["type"] == "urn:meterbridge:problem:overloaded"
    assert answer.headers["retry-after"] == "5"


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("url", [PATH, PATH + "/"])
async def test_other_methods(receiver: Receiver, method: str, url: str) -> None:
    answer = await receiver.client.request(method, url)
    assert answer.status_code == 405
    assert answer.headers["allow"] == "POST"
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("kind", [None, b"text/plain", b"application/x-www-form-urlencoded"])
async def test_the_signature_decides_and_not_the_content_type(
    receiver: Receiver, kind: bytes | None
) -> None:
    headers = signed(BODY) + ([] if kind is None else [(b"content-type", kind)])
    assert (await receiver.send(BODY, headers)).status_code == 202


async def test_a_report_of_a_mebibyte_is_taken(receiver: Receiver) -> None:
    body = BODY + b" " * (1024 * 1024 - len(BODY))
    assert (await receiver.send(body)).status_code == 202


async def test_no_secret_reaches_a_log(receiver: Receiver) -> None:
    with capture_logs() as logs:
        await receiver.send(BODY, signed(BODY, key=b"x" * 32))
        await receiver.send(encoded({"type": "report.meter"}))
        await receiver.send(encoded({"type": "unheard"}))
    assert len(logs) == 3
    for hidden in (SECRET, SECRET.removeprefix("whsec_"), "v1,", "unheard"):
        assert hidden not in repr(logs)
