"""`GET /v1/usage/explain`."""

from datetime import timedelta

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.ledger.explainable import DAY, Written
from tests.mapping.stripe_side import HOUR, SECOND


@pytest.fixture
def written(engine: AsyncEngine) -> Written:
    return Written(engine)


async def test_the_whole_page(client: httpx.AsyncClient, written: Written) -> None:
    period = await written.period(exact_numerator=37, exact_denominator=3, rounded_total=12)
    record = await written.record(period, DAY + HOUR - SECOND, 12)
    await written.window(
        DAY,
        37,
        record,
        group_by={"model": "gpt-4"},
        scale_denominator=3,
        amount_numerator=37,
        amount_denominator=3,
    )
    await written.attempt(record, 12, http_status=429, outcome="retried", problem="rate_limited")
    await written.attempt(record, 12, request_id="req_good")
    answer = await client.get("/v1/usage/explain", params={"item": "si_1", "period": "2026-03-15"})
    assert answer.status_code == 200, answer.text
    page = answer.json()
    [explained] = page["item_periods"]
    assert page["sentence"] == explained["sentence"]
    assert page["day"] is None
    assert explained["totals"]["exact"] == "37/3"
    assert (explained["combination"], explained["rounding"]) == ("sum", "half_up")
    # Nobody listens at the Stripe of these tests.
    assert explained["stripe"]["look"] == "not_readable"
    assert "what Stripe says could not be read" in page["sentence"]
    [shown] = explained["records"]
    assert shown["timestamp"] == "2026-03-09T00:59:59Z"
    assert (shown["wanted_quantity"], shown["reported_quantity"]) == (12, 12)
    [window] = shown["windows"]
    assert (window["value"], window["scale"], window["amount"]) == ("37", "1/3", "37/3")
    assert window["group_by"] == {"model": "gpt-4"}
    assert window["source_in_words"] == "told by a webhook"
    assert [(a["http_status"], a["outcome"]) for a in shown["attempts"]] == [
        (429, "retried"),
        (200, "succeeded"),
    ]
    assert shown["attempts"][1]["request_id"] == "req_good"


async def test_a_subject_on_a_day(client: httpx.AsyncClient, written: Written) -> None:
    march = await written.period()
    april = await written.period(period_start=DAY, period_end=DAY + timedelta(days=40))
    home = await written.record(march, DAY + HOUR - SECOND, 3, carried_quantity=-2)
    there = await written.record(april, DAY + 2 * HOUR, 2, carried_quantity=2)
    await written.window(DAY, 5, home)
    await written.carry(home, there, 2)
    parked = await written.window(DAY + HOUR, 1)
    answer = await client.get(
        "/v1/usage/explain",
        params={"subject": "customer-1", "at": "2026-03-09T12:00:00Z", "stripe": "false"},
    )
    assert answer.status_code == 200, answer.text
    page = answer.json()
    assert page["sentence"].startswith("customer-1, 9 Mar 2026 (UTC): 2 windows, 1 booked")
    assert [window["id"] for window in page["day"]["aside"]] == [parked]
    assert page["day"]["aside"][0]["action"]
    [explained] = page["item_periods"]
    assert explained["stripe"]["look"] == "not_asked"
    [carry] = explained["carries"]
    assert (carry["quantity"], carry["svix_id"]) == (2, "msg_late")
    assert carry["origin"]["timestamp"] == "2026-03-09T00:59:59Z"
    assert carry["destination"]["usage_record_id"] == there


@pytest.mark.parametrize(
    ("parameters", "status", "path"),
    [
        ({}, 422, "query.item"),
        ({"item": "si_1"}, 422, "query.period"),
        ({"item": "si_1", "period": "soon"}, 422, "query.period"),
        ({"subject": "a", "at": "2026-03-09", "after": "1"}, 422, "query.after"),
        ({"item": "a\x00", "period": "2026-03-09"}, 422, "query.item"),
        ({"item": "si_1", "period": "2026-03-09", "after": "-1"}, 422, "query.after"),
        ({"item": "si_9", "period": "2026-03-09"}, 404, None),
    ],
)
async def test_refusals(
    client: httpx.AsyncClient, parameters: dict[str, str], status: int, path: str | None
) -> None:
    answer = await client.get("/v1/usage/explain", params=parameters)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert "soon" not in answer.text
    if path is None:
        assert body["type"] == "urn:meterbridge:problem:not-found"
    else:
        assert body["faults"][0]["path"] == path


async def test_windows_are_listed_with_their_source_and_by_record(
    client: httpx.AsyncClient, written: Written
) -> None:
    record = await written.record(await written.period(), DAY, 3)
    flush = await written.window(
        DAY, 3, record, source="flush", slipped_from=DAY, slipped_to=DAY + HOUR
    )
    await written.window(DAY + HOUR, 1, aggregation="MAX", state="covered", reason="whole_period")
    [listed] = (await client.get("/v1/windows", params={"record": record})).json()["data"]
    assert (listed["id"], listed["aggregation"], listed["source"]) == (flush, "SUM", "flush")
    assert (listed["slipped_from"], listed["slipped_to"]) == (
        "2026-03-09T00:00:00Z",
        "2026-03-09T01:00:00Z",
    )
    [covered] = (await client.get("/v1/windows", params={"state": "covered"})).json()["data"]
    assert covered["aggregation"] == "MAX"
    summary = (await client.get("/v1/summary")).json()
    assert summary["windows"]["covered"] == 1


async def test_a_late_record_is_counted_and_keeps_the_summary_from_drained(
    client: httpx.AsyncClient, written: Written
) -> None:
    await written.record(await written.period(), DAY, 3, state="late")
    summary = (await client.get("/v1/summary")).json()
    assert (summary["records"]["late"], summary["drained"]) == (1, False)
    [late] = (await client.get("/v1/records", params={"state": "late"})).json()["data"]
    assert late["wanted_quantity"] == 3
