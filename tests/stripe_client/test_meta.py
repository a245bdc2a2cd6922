"""The envelope of an answer, and text made fit to be shown."""

import httpx
import pytest

from app.stripe_client.meta import AnswerMeta, read_meta
from app.stripe_client.redaction import presentable


def test_every_header_of_the_envelope_is_read() -> None:
    headers = httpx.Headers(
        {
            "Request-Id": "req_1",
            "Idempotent-Replayed": "true",
            "Original-Request": "req_0",
            "Stripe-Version": "2025-02-24.acacia",
            "Stripe-Should-Retry": "false",
            "Retry-After": "7",
            "Stripe-Rate-Limited-Reason": "endpoint-rate",
        }
    )
    assert read_meta(429, headers) == AnswerMeta(
        status=429,
        request_id="req_1",
        idempotent_replayed=True,
        original_request="req_0",
        stripe_version="2025-02-24.acacia",
        should_retry=False,
        retry_after=7,
        rate_limited_reason="endpoint-rate",
    )


def test_an_answer_without_headers_has_an_empty_envelope() -> None:
    assert read_meta(502, httpx.Headers({})) == AnswerMeta(status=502)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "0"}, 0),
        ({"Retry-After": " 12 "}, 12),
        ({"Retry-After": "999999999"}, 86_400),
        ({"Retry-After": "-5"}, None),
        ({"Retry-After": "1.5"}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "٣"}, None),
        ({"Retry-After": "1" * 5000}, None),
        ({"Retry-After": ""}, None),
        ({"Retry-After": "Wed, 21 Oct 2026 07:28:30 GMT"}, None),
        ({"Retry-After": "Wed, 21 Oct 2026 07:28:30 GMT",
          "Date": "Wed, 21 Oct 2026 07:28:00 GMT"}, 30),
        ({"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT",
          "Date": "Wed, 21 Oct 2026 07:28:30 GMT"}, 0),
        ({"Retry-After": "Wed, 21 Oct 2026 07:28:30 GMT", "Date": "garbage"}, None),
        ({"Retry-After": "Wed, 99 Oct 2026 07:28:30 GMT",
          "Date": "Wed, 21 Oct 2026 07:28:00 GMT"}, None),
    ],
)  # fmt: skip
def test_retry_after_is_seconds_by_the_answers_own_date(
    headers: dict[str, str], seconds: int | None
) -> None:
    lower = {name.lower(): value for name, value in headers.items()}
    assert read_meta(503, lower).retry_after == seconds


def test_a_header_cannot_smuggle_a_line_or_a_novel() -> None:
    meta = read_meta(200, {"request-id": "req\n1" + "x" * 1000})
    assert meta.request_id is not None
    assert meta.request_id.startswith("req1x")
    assert len(meta.request_id) == 255


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            "Invalid API Key provided: sk_test_*******0000",
            "Invalid API Key provided: sk_test_[key]",
        ),
        ("The provided key 'rk_live_51Abc' may not", "The provided key 'rk_live_[key]' may not"),
        ("a\r\nb\x00c", "a  b c"),
        ("having 'rak_usage_record_write'", "having 'rak_usage_record_write'"),
        ("my odd-key here", "my [key] here"),
    ],
)
def test_foreign_text_is_shown_without_keys_and_on_one_line(text: str, shown: str) -> None:
    assert presentable(text, "odd-key") == shown


def test_foreign_text_is_bounded() -> None:
    assert len(presentable("x" * 10_000)) == 500
    assert presentable("x" * 500) == "x" * 500
