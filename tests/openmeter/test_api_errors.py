"""Faults of OpenMeter and of the network: what is tried again, and what never shows."""

import json
import socket
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.openmeter.api import OpenMeterClient
from app.openmeter.api_errors import (
    OpenMeterError,
    OpenMeterMalformed,
    OpenMeterRefused,
    OpenMeterUnreachable,
)
from app.openmeter.api_transport import LARGEST_BODY
from tests.openmeter.conftest import API_KEY, Served
from tests.openmeter_side.answers import Answer, problem, unauthorized, unavailable
from tests.openmeter_side.side import OpenMeterSide

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
HTML = "text/html"


async def failure(client: OpenMeterClient, subject: str | list[str] = "customer-1") -> Any:
    with pytest.raises(OpenMeterError) as caught:
        await client.query(
            "ai_tokens", from_=NOON, to=NOON + HOUR, subject=subject, group_by=["model"]
        )
    assert API_KEY not in str(caught.value)
    assert caught.value.__context__ is None
    return caught.value


@pytest.mark.parametrize(
    ("answer", "wait"),
    [
        (unavailable(), None),
        (problem(503, "Unavailable", "later", **{"retry-after": "7"}), 7),
        (problem(429, "Too Many", "slower", **{"retry-after": "99999999"}), 86_400),
        (problem(429, "Too Many", "slower", **{"retry-after": "-1"}), None),
        (problem(500, "Internal", "oh"), None),
        (Answer(502, b"<html>bad gateway", HTML), None),
        (Answer(408, b""), None),
    ],
)
async def test_what_passes(
    side: OpenMeterSide, openmeter: OpenMeterClient, answer: Answer, wait: int | None
) -> None:
    side.fail(answer, times=1)
    error = await failure(openmeter)
    assert type(error) is OpenMeterUnreachable
    assert (error.status, error.retry_after) == (answer.status, wait)
    assert await openmeter.subjects("ai_tokens", from_=NOON, to=NOON + HOUR) == ()


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (unauthorized(), "HTTP 401 (Unauthorized: invalid token)"),
        (problem(403, "Forbidden", f"key {API_KEY} may not"), "Forbidden: key [key] may not"),
        (problem(400, "Bad", "line\nbreak\x00"), "(Bad: line break)"),
        (Answer(404, b"404 page not found", "text/plain"), "HTTP 404"),
        (Answer(400, b"[]", "application/problem+json"), "HTTP 400"),
        (Answer(400, b'{"title": 5, "detail": null}', "application/problem+json"), "HTTP 400"),
        (Answer(400, b"{", "application/problem+json; charset=utf-8"), "HTTP 400"),
        (Answer(301, b"", HTML, {"location": "https://elsewhere.invalid/"}), "HTTP 301"),
        (Answer(204, b""), "HTTP 204"),
    ],
)
async def test_what_stays(
    side: OpenMeterSide, openmeter: OpenMeterClient, answer: Answer, says: str
) -> None:
    side.fail(answer)
    error = await failure(openmeter)
    assert type(error) is OpenMeterRefused
    assert error.status == answer.status
    assert says in error.detail


async def test_a_problem_is_told_at_bounded_length(
    side: OpenMeterSide, openmeter: OpenMeterClient
) -> None:
    side.fail(problem(400, "t" * 10_000, "d" * 10_000))
    error = await failure(openmeter)
    assert error.problem is not None
    assert (len(error.problem.title), len(error.problem.detail)) == (300, 300)
    assert len(error.detail) < 700


async def test_a_missing_and_a_wrong_key(served: Served, side: OpenMeterSide) -> None:
    for key in (None, "om_wrong"):
        async with OpenMeterClient(base_url=served.url, api_key=key) as client:
            assert (await failure(client)).status == 401
    side.api_key = None
    async with OpenMeterClient(base_url=served.url + "/") as client:
        assert await client.subjects("ai_tokens", from_=NOON, to=NOON + HOUR) == ()


async def test_an_unknown_meter_is_refused(openmeter: OpenMeterClient) -> None:
    with pytest.raises(OpenMeterRefused, match="meter not found: no_such"):
        await openmeter.subjects("no_such", from_=NOON, to=NOON + HOUR)


async def test_a_hanging_answer_ends_with_the_timeout(served: Served, side: OpenMeterSide) -> None:
    fault = side.fail(kind="hang")
    async with OpenMeterClient(base_url=served.url, timeout=0.2) as client:
        error = await failure(client)
    assert type(error) is OpenMeterUnreachable
    assert error.status is None
    assert fault.met == 1


async def test_a_cut_connection(side: OpenMeterSide, openmeter: OpenMeterClient) -> None:
    fault = side.fail(kind="reset")
    assert type(await failure(openmeter)) is OpenMeterUnreachable
    assert 1 <= fault.met <= 2  # aiohttp asks what is only a read once more, and then no more


async def test_nobody_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, never listening
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        async with OpenMeterClient(base_url=address, api_key=API_KEY) as client:
            assert type(await failure(client)) is OpenMeterUnreachable
    assert type(await failure(client)) is OpenMeterUnreachable  # closed


def row(**members: Any) -> dict[str, Any]:
    return {
        "value": 1,
        "windowStart": "2026-03-01T12:00:00Z",
        "windowEnd": "2026-03-01T13:00:00Z",
        "subject": "customer-1",
        "groupBy": {"model": "gpt-4"},
        **members,
    }


def data(*rows: object) -> bytes:
    return json.dumps({"data": rows}).encode()


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"<html>sign in</html>", "the body is not JSON"),
        (b"\xff", "the body is not UTF-8"),
        (b"[]", "must be an object"),
        (b"{}", "data is missing"),
        (b'{"data": null}', "data must be an array"),
        (b'{"data": [], "data": []}', "same member twice"),
        (b"[" * 100_000, "nested too deeply"),
        (data(5), "data[0] must be an object"),
        (data(row(), row(value="many")), "data[1].value must be a number"),
        (data(row(value=None)), "data[0].value must be a number"),
        (data(row(value=float("nan"))), "data[0].value must be finite"),
        (data(row(value=float("inf"))), "data[0].value must be finite"),
        (data(row(windowStart="yesterday")), "data[0].windowStart must be a time"),
        (data(row(groupBy={"model": 5})), "data[0].groupBy must be a string"),
        (data(row(subject="customer-2")), "data[0].subject is none that was asked for"),
        (data(row(groupBy={"city": "x"})), "data[0].groupBy has a name that was not asked for"),
        (data(row(windowEnd="2026-03-01T12:00:00Z")), "data[0] lies outside the bounds"),
        (data(row(windowStart="2026-03-01T13:00:00Z")), "data[0] lies outside the bounds"),
        (
            data(row(windowStart="2026-03-01T11:00:00Z", windowEnd="2026-03-01T12:00:00Z")),
            "data[0] lies outside the bounds",
        ),
        (data(row(), row(value=2)), "data[1] repeats an earlier row"),
        (
            data(row(groupBy={"model": None}), row(groupBy={})),
            "data[1] repeats an earlier row",
        ),
        (b'{"data": [' + b" " * LARGEST_BODY + b"]}", "the body is over"),
    ],
)
async def test_answers_that_are_none(
    side: OpenMeterSide, openmeter: OpenMeterClient, body: bytes, says: str
) -> None:
    side.fail(Answer(200, body))
    error = await failure(openmeter)
    assert type(error) is OpenMeterMalformed
    assert says in error.detail
    assert "customer-2" not in error.detail


async def test_a_row_without_subject_is_the_one_that_was_asked_for(
    side: OpenMeterSide, openmeter: OpenMeterClient
) -> None:
    side.fail(Answer(200, data(row(subject=None))))
    [found] = await openmeter.query(
        "ai_tokens", from_=NOON, to=NOON + HOUR, subject="customer-1", group_by=["model"]
    )
    assert found.subject == "customer-1"
    assert "data[0].subject" in (await failure(openmeter, ["customer-1", "customer-2"])).detail


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("2026-03-01T12:00:00Z", "2026-03-01T12:01:00Z"),
        ("2026-03-01T12:30:00Z", "2026-03-01T13:30:00Z"),
        ("2026-03-01T00:00:00Z", "2026-03-02T00:00:00Z"),
    ],
)
async def test_windows_of_another_size_are_refused(
    side: OpenMeterSide, openmeter: OpenMeterClient, start: str, end: str
) -> None:
    side.fail(Answer(200, data(row(windowStart=start, windowEnd=end, groupBy={}))))
    with pytest.raises(OpenMeterMalformed, match="no window of the size"):
        await openmeter.query(
            "ai_tokens", from_=NOON, to=NOON + HOUR, subject="customer-1", window_size="HOUR"
        )


async def test_a_server_that_ignores_the_filter_is_refused(
    side: OpenMeterSide, openmeter: OpenMeterClient
) -> None:
    """Else one price would be billed for the usage of all groups."""
    side.fail(Answer(200, data(row(groupBy={"model": "gpt-5"}))))
    with pytest.raises(OpenMeterMalformed, match="none that was filtered for"):
        await openmeter.query(
            "ai_tokens",
            from_=NOON,
            to=NOON + HOUR,
            subject="customer-1",
            filter_group_by={"model": "gpt-4"},
        )


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b'{"items": [{"id": "01A"}]}', "totalCount is missing"),
        (b'{"items": [{"id": ""}], "totalCount": 1}', "items[0].id"),
        (b'{"items": [{"id": "01A"}], "totalCount": -1}', "totalCount"),
        (b'{"items": [{"id": "01A"}], "totalCount": 1e99}', "totalCount"),
        (b'{"items": [{"id": "01A"}], "totalCount": 2}', "repeats earlier ones"),
        (b'{"items": [{"id": "1", "usageAttribution": 5}], "totalCount": 1}', "usageAttribution"),
    ],
)
async def test_lists_of_customers_that_are_none(
    side: OpenMeterSide, openmeter: OpenMeterClient, body: bytes, says: str
) -> None:
    side.fail(Answer(200, body))
    with pytest.raises(OpenMeterMalformed) as caught:
        await openmeter.customers("acme")
    assert says in caught.value.detail


@pytest.mark.parametrize("body", [b"{}", b'{"stripeCustomerId": ""}', b'{"stripeCustomerId": 5}'])
async def test_stripe_data_that_is_none(
    side: OpenMeterSide, openmeter: OpenMeterClient, body: bytes
) -> None:
    side.fail(Answer(200, body))
    with pytest.raises(OpenMeterMalformed, match="stripeCustomerId"):
        await openmeter.stripe_customer_id("01A")


@pytest.mark.parametrize(
    "settings",
    [
        {"api_key": ""},
        {"api_key": "om secret"},
        {"api_key": "om_secret\n"},
        {"base_url": "openmeter.cloud"},
        {"base_url": "ftp://openmeter.cloud"},
        {"base_url": "https://"},
        {"base_url": "https://user:secret@openmeter.cloud"},
        {"base_url": "https://openmeter.cloud?x=secret"},
        {"base_url": "https://openmeter.cloud:port"},
        {"timeout": 0},
        {"timeout": float("nan")},
        {"max_connections": 0},
        {"max_connections": True},
    ],
)
def test_a_client_of_wrong_settings_is_not_made(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"API key|base URL|timeout|max_connections") as caught:
        OpenMeterClient(**{"base_url": "https://openmeter.cloud", **settings})
    assert "secret" not in str(caught.value)
