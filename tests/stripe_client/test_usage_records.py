"""Posting a usage record: what is sent, and that the answer is about it."""

from typing import Any

import httpx
import pytest
import respx

from app.stripe_client import (
    MalformedAnswer,
    ProblemKind,
    StripeAnswered,
    StripeClient,
    UsageRecordAnswer,
    VersionMismatch,
)
from tests.stripe_client import bodies
from tests.stripe_client.bodies import RECORD
from tests.stripe_client.conftest import API_KEY

PATH = "/v1/subscription_items/si_1/usage_records"


def answers(router: respx.MockRouter, response: httpx.Response) -> respx.Route:
    return router.post(PATH).mock(return_value=response)


def ok(body: Any, **headers: str) -> httpx.Response:
    return httpx.Response(200, json=body, headers={**bodies.VERSION, **headers})


async def test_the_request_is_what_stripe_documents(
    client: StripeClient, stripe_api: respx.MockRouter
) -> None:
    route = answers(stripe_api, ok(bodies.usage_record()))
    await client.post_usage_record(**RECORD)
    request = route.calls.last.request
    assert request.content == b"quantity=100&timestamp=1767229199&action=set"
    assert request.headers["content-type"] == "application/x-www-form-urlencoded"
    assert request.headers["idempotency-key"] == "msg_1:si_1:1"
    assert request.headers["authorization"] == f"Bearer {API_KEY}"
    assert request.headers["stripe-version"] == "2025-02-24.acacia"
    assert request.headers["user-agent"].startswith("meterbridge")
    assert "stripe-account" not in request.headers


async def test_a_connected_account_is_named(stripe_api: respx.MockRouter) -> None:
    route = answers(stripe_api, ok(bodies.usage_record()))
    transport = httpx.MockTransport(stripe_api.async_handler)
    async with StripeClient(api_key=API_KEY, account="acct_1", transport=transport) as client:
        await client.post_usage_record(**RECORD)
    assert route.calls.last.request.headers["stripe-account"] == "acct_1"


async def test_the_answer_is_typed_and_keeps_its_envelope(
    client: StripeClient, stripe_api: respx.MockRouter
) -> None:
    replay = {"Idempotent-Replayed": "true", "Original-Request": "req_0"}
    answers(stripe_api, ok(bodies.usage_record(newly_added={"x": 1.5}), **replay))
    answer = await client.post_usage_record(**RECORD)
    assert answer == UsageRecordAnswer(
        id="mbur_1IJ3zE2eZvKYlo2CsJAtf1Jl",
        quantity=100,
        subscription_item="si_1",
        timestamp=1_767_229_199,
        livemode=False,
    )
    assert answer.meta.request_id == "req_1"
    assert answer.meta.idempotent_replayed
    assert answer.meta.original_request == "req_0"


async def test_after_an_increment_the_quantity_may_be_another(
    client: StripeClient, stripe_api: respx.MockRouter
) -> None:
    answers(stripe_api, ok(bodies.usage_record(quantity=130)))
    answer = await client.post_usage_record(**{**RECORD, "action": "increment"})
    assert answer.quantity == 130


@pytest.mark.parametrize(
    "change",
    [
        {"quantity": -1},
        {"quantity": 1.0},
        {"quantity": True},
        {"quantity": "100"},
        {"timestamp": 1.5},
        {"timestamp": -1},
        {"timestamp": "now"},
        {"action": "replace"},
        {"idempotency_key": ""},
        {"idempotency_key": "k" * 256},
        {"idempotency_key": "a\r\nStripe-Account: acct_2"},
        {"subscription_item": ""},
        {"subscription_item": ".."},
        {"subscription_item": "si_1/../../charges"},
    ],
)
async def test_what_must_not_be_sent_is_refused_before_it_is(
    client: StripeClient, stripe_api: respx.MockRouter, change: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=r"must|usable"):
        await client.post_usage_record(**{**RECORD, **change})
    assert not stripe_api.calls


@pytest.mark.parametrize(
    "body",
    [
        bodies.usage_record(quantity=99),
        bodies.usage_record(quantity=100.0),
        bodies.usage_record(quantity="100"),
        bodies.usage_record(timestamp=1_767_229_200),
        bodies.usage_record(timestamp=None),
        bodies.usage_record(subscription_item="si_2"),
        bodies.usage_record(object="usage_record_summary"),
        bodies.usage_record(id=None),
        bodies.usage_record(id=""),
        bodies.usage_record(livemode="no"),
        {},
        [],
        "text",
        None,
    ],
)
async def test_an_answer_about_something_else_leaves_the_record_in_doubt(
    client: StripeClient, stripe_api: respx.MockRouter, body: Any
) -> None:
    answers(stripe_api, ok(body))
    with pytest.raises(MalformedAnswer) as caught:
        await client.post_usage_record(**RECORD)
    assert caught.value.in_doubt
    assert caught.value.request_id == "req_1"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>",
        b'{"id": "mbur_1"',
        b"\xff\xfe\x00",
        b'{"quantity": NaN}',
        b'{"quantity": ' + b"9" * 5000 + b"}",
        b"[" * 100_000,
        b"{" + b" " * (4 * 1024 * 1024) + b"}",
    ],
    ids=["empty", "html", "cut", "binary", "nan", "long number", "deep", "over 4 MiB"],
)
async def test_a_body_that_is_no_answer_leaves_the_record_in_doubt(
    client: StripeClient, stripe_api: respx.MockRouter, content: bytes
) -> None:
    answers(stripe_api, httpx.Response(200, content=content, headers=bodies.VERSION))
    with pytest.raises(MalformedAnswer) as caught:
        await client.post_usage_record(**RECORD)
    assert caught.value.in_doubt
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("status", [201, 202, 204, 206])
async def test_another_success_than_200_is_in_doubt(
    client: StripeClient, stripe_api: respx.MockRouter, status: int
) -> None:
    answers(
        stripe_api,
        httpx.Response(status, json=bodies.usage_record(), headers=bodies.VERSION),
    )
    with pytest.raises(MalformedAnswer, match=str(status)):
        await client.post_usage_record(**RECORD)


@pytest.mark.parametrize("echoed", ["2025-03-31.basil", "", None])
async def test_another_version_than_the_pinned_one_is_noticed(
    client: StripeClient, stripe_api: respx.MockRouter, echoed: str | None
) -> None:
    headers = {} if echoed is None else {"Stripe-Version": echoed}
    answers(stripe_api, httpx.Response(200, json=bodies.usage_record(), headers=headers))
    with pytest.raises(VersionMismatch) as caught:
        await client.post_usage_record(**RECORD)
    assert caught.value.in_doubt
    assert caught.value.echoed == (echoed or None)
    assert caught.value.pinned == "2025-02-24.acacia"


async def test_an_error_answer_is_classified_with_all_it_says(
    client: StripeClient, stripe_api: respx.MockRouter
) -> None:
    error = {
        "type": "invalid_request_error",
        "param": "timestamp",
        "message": "Cannot create the usage record with this timestamp because timestamps must be"
        " after the subscription's last invoice period (or current period start time).",
        "request_log_url": "https://dashboard.stripe.com/x",
    }
    headers = {**bodies.VERSION, "Stripe-Should-Retry": "false"}
    answers(stripe_api, httpx.Response(400, json={"error": error}, headers=headers))
    with pytest.raises(StripeAnswered) as caught:
        await client.post_usage_record(**RECORD)
    assert caught.value.kind is ProblemKind.PERIOD_CLOSED
    assert caught.value.param == "timestamp"
    assert caught.value.message == error["message"]
    assert caught.value.meta.should_retry is False
    assert caught.value.request_id == "req_1"
    assert not caught.value.in_doubt
    assert str(caught.value).startswith(
        "period_closed (HTTP 400, param=timestamp, request=req_1): Cannot create"
    )


@pytest.mark.parametrize(
    ("status", "content", "kind", "in_doubt"),
    [
        (500, b'{"error": {"type": "api_error"}}', ProblemKind.SERVER_ERROR, True),
        (503, b"<html>upstream</html>", ProblemKind.SERVER_ERROR, True),
        (504, b"", ProblemKind.SERVER_ERROR, True),
        (502, b"[" * 100_000, ProblemKind.SERVER_ERROR, True),
        (401, b'{"error": "not an object"}', ProblemKind.KEY_REFUSED, False),
        (429, b"slow down", ProblemKind.RATE_LIMITED, False),
        (400, b'{"error": {"type": "invalid_request_error"}}', ProblemKind.UNFORESEEN, False),
        (400, b'{"error": {"type": 7, "message": []}}', ProblemKind.UNFORESEEN, True),
        (404, b"<html>", ProblemKind.UNFORESEEN, True),
        (408, b"[]", ProblemKind.UNFORESEEN, True),
        (302, b"", ProblemKind.UNFORESEEN, True),
        (304, b"", ProblemKind.UNFORESEEN, True),
    ],
)
async def test_an_answer_that_is_no_error_of_stripes_still_gets_its_kind(
    client: StripeClient,
    stripe_api: respx.MockRouter,
    *,
    status: int,
    content: bytes,
    kind: ProblemKind,
    in_doubt: bool,
) -> None:
    response = httpx.Response(status, content=content, headers={"Location": "https://other.test/"})
    route = answers(stripe_api, response)
    with pytest.raises(StripeAnswered) as caught:
        await client.post_usage_record(**RECORD)
    assert caught.value.kind is kind
    assert caught.value.in_doubt is in_doubt
    assert route.call_count == 1  # neither redirected nor retried


async def test_an_error_never_shows_the_key_nor_a_novel(
    client: StripeClient, stripe_api: respx.MockRouter
) -> None:
    message = f"Invalid API Key provided: {API_KEY}\n" + "x" * 100_000
    answers(
        stripe_api,
        httpx.Response(401, json={"error": {"type": "invalid_request_error", "message": message}}),
    )
    with pytest.raises(StripeAnswered) as caught:
        await client.post_usage_record(**RECORD)
    assert caught.value.kind is ProblemKind.KEY_REFUSED
    assert caught.value.message is not None
    assert len(caught.value.message) == 500
    assert API_KEY not in repr(caught.value)
    assert API_KEY not in repr(vars(caught.value))


@pytest.mark.parametrize("status", [200, 400, 401, 429, 500])
async def test_an_answer_to_another_request_says_nothing(
    client: StripeClient, stripe_api: respx.MockRouter, status: int
) -> None:
    """Whatever it says: it is in doubt whether ours was executed."""
    headers = {**bodies.VERSION, "Idempotency-Key": "msg_of_another:si_1:1"}
    answers(stripe_api, httpx.Response(status, json=bodies.usage_record(), headers=headers))
    with pytest.raises(MalformedAnswer, match="another request") as raised:
        await client.post_usage_record(**RECORD)
    assert raised.value.in_doubt


async def test_an_answer_that_names_our_key_is_ours(
    client: StripeClient, stripe_api: respx.MockRouter
) -> None:
    answers(stripe_api, ok(bodies.usage_record(), **{"Idempotency-Key": "msg_1:si_1:1"}))
    assert (await client.post_usage_record(**RECORD)).quantity == RECORD["quantity"]
