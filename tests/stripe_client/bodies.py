"""Bodies as Stripe answers them under the pinned version, to be bent by the tests."""

from typing import Any

import httpx
import respx

VERSION = {"Stripe-Version": "2025-02-24.acacia", "Request-Id": "req_1"}

# The arguments that `usage_record()` is the answer to.
RECORD: dict[str, Any] = {
    "subscription_item": "si_1",
    "quantity": 100,
    "timestamp": 1_767_229_199,
    "action": "set",
    "idempotency_key": "msg_1:si_1:1",
}

PERIOD_START = 1_767_225_600
PERIOD_END = 1_769_904_000


def usage_record(**changes: Any) -> dict[str, Any]:
    return {
        "id": "mbur_1IJ3zE2eZvKYlo2CsJAtf1Jl",
        "object": "usage_record",
        "livemode": False,
        "quantity": 100,
        "subscription_item": "si_1",
        "timestamp": 1_767_229_199,
        **changes,
    }


def price(**changes: Any) -> dict[str, Any]:
    return {
        "id": "price_tokens",
        "object": "price",
        "active": True,
        "billing_scheme": "per_unit",
        "created": 1_700_000_000,
        "currency": "usd",
        "livemode": False,
        "lookup_key": "tokens",
        "metadata": {"meter": "ai_prompt_tokens"},
        "product": "prod_1",
        "recurring": {
            "aggregate_usage": "sum",
            "interval": "month",
            "interval_count": 1,
            "meter": None,
            "usage_type": "metered",
        },
        "type": "recurring",
        "unit_amount_decimal": "0.5",
        **changes,
    }


def item(identifier: str = "si_1", **changes: Any) -> dict[str, Any]:
    return {
        "id": identifier,
        "object": "subscription_item",
        "billing_thresholds": None,
        "created": 1_700_000_000,
        "metadata": {},
        "price": price(),
        "subscription": "sub_1",
        **changes,
    }


def listing(data: list[dict[str, Any]], *, has_more: bool = False) -> dict[str, Any]:
    return {"object": "list", "data": data, "has_more": has_more, "url": "/v1/x"}


def subscription(**changes: Any) -> dict[str, Any]:
    return {
        "id": "sub_1",
        "object": "subscription",
        "billing_thresholds": None,
        "cancel_at": None,
        "cancel_at_period_end": False,
        "canceled_at": None,
        "current_period_end": PERIOD_END,
        "current_period_start": PERIOD_START,
        "customer": "cus_1",
        "ended_at": None,
        "items": listing([item()]),
        "livemode": False,
        "metadata": {"plan": "pro"},
        "pause_collection": None,
        "schedule": None,
        "start_date": PERIOD_START,
        "status": "active",
        "trial_end": None,
        **changes,
    }


def customer(identifier: str = "cus_1", **changes: Any) -> dict[str, Any]:
    return {
        "id": identifier,
        "object": "customer",
        "created": 1_700_000_000,
        "email": "billing@example.com",
        "livemode": True,
        "metadata": {"openmeter_subject": "acme"},
        **changes,
    }


def summary(**changes: Any) -> dict[str, Any]:
    return {
        "id": "sis_1",
        "object": "usage_record_summary",
        "invoice": None,
        "livemode": False,
        "period": {"start": None, "end": None},
        "subscription_item": "si_1",
        "total_usage": 12,
        **changes,
    }


def ok(body: Any) -> httpx.Response:
    return httpx.Response(200, json=body, headers=VERSION)


def queries(route: respx.Route) -> list[dict[str, str]]:
    return [dict(call.request.url.params) for call in route.calls]
