"""The official `stripe` package, the last one that knows usage records, drives the sandbox."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
import stripe

from tests.sandbox.conftest import Live
from tests.sandbox.world import END, KEY, NOW, START

Connect = Callable[..., stripe.StripeClient]


@pytest.fixture
def connect(live: Live) -> Iterator[Connect]:
    """Makes clients of the sandbox; their connections are closed after the test."""
    sessions: list[requests.Session] = []

    def client(
        key: str = KEY, version: str = "2025-02-24.acacia", retries: int = 0
    ) -> stripe.StripeClient:
        sessions.append(requests.Session())
        return stripe.StripeClient(
            key,
            base_addresses={"api": live.url},
            max_network_retries=retries,
            stripe_version=version,
            http_client=stripe.RequestsClient(timeout=20, session=sessions[-1]),
        )

    yield client
    for session in sessions:
        session.close()


@pytest.fixture
def client(connect: Connect) -> stripe.StripeClient:
    """A client with the account's key."""
    return connect()


def _use(
    client: stripe.StripeClient, quantity: int, *, key: str | None = None, item: str = "si_1"
) -> stripe.UsageRecord:
    return client.subscription_items.usage_records.create(
        item,
        {"quantity": quantity, "timestamp": NOW - 5, "action": "set"},
        {} if key is None else {"idempotency_key": key},
    )


def _headers(error: stripe.StripeError) -> dict[str, str]:
    assert error.headers is not None
    return {name.lower(): value for name, value in error.headers.items()}


def test_usage_records_are_set_and_incremented(client: stripe.StripeClient) -> None:
    _use(client, 100)
    record = _use(client, 40)
    assert (record.object, record.quantity, record.timestamp) == ("usage_record", 40, NOW - 5)
    records = client.subscription_items.usage_records
    for _ in range(2):
        record = records.create("si_1", {"quantity": 1, "timestamp": "now"})
    assert (record.quantity, record.subscription_item) == (2, "si_1")
    [summary] = client.subscription_items.usage_record_summaries.list("si_1").data
    assert (summary.total_usage, summary.invoice) == (42, None)
    assert (summary.period.start, summary.period.end) == (START, END)


def test_a_subscription_is_retrieved(client: stripe.StripeClient) -> None:
    found = client.subscriptions.retrieve("sub_1")
    assert (found.status, found.customer) == ("active", "cus_1")
    assert (found.current_period_start, found.current_period_end) == (START, END)
    [item] = found["items"].data
    assert isinstance(item, stripe.SubscriptionItem)
    assert item.price.recurring is not None
    assert (item.price.recurring.usage_type, item.price.recurring.meter) == ("metered", None)
    assert item.price.lookup_key == "tokens"


@pytest.mark.parametrize("limit", [None, 10, 25])
def test_items_are_paged_through(
    live: Live, client: stripe.StripeClient, limit: int | None
) -> None:
    names = [f"si_many_{number:03d}" for number in range(57)]
    body = {
        "id": "sub_many",
        "customer": "cus_1",
        "items": [{"id": name, "price": "price_1"} for name in names],
    }
    live.control("POST", "/subscriptions", body)
    listed = (
        client.subscription_items.list({"subscription": "sub_many"})
        if limit is None
        else client.subscription_items.list({"subscription": "sub_many", "limit": limit})
    )
    assert [item.id for item in listed.auto_paging_iter()] == names
    embedded = client.subscriptions.retrieve("sub_many")["items"]
    assert [item.id for item in embedded.auto_paging_iter()] == names
    operations = live.control("GET", "/requests")["operations"]
    assert operations["list_subscription_items"]["total"] == -(-57 // (limit or 10)) + 5


def test_pages_are_walked_backwards(live: Live, client: stripe.StripeClient) -> None:
    for number in range(4):
        live.control("POST", "/customers", {"id": f"cus_more_{number}"})
    last = client.customers.list({"ending_before": "cus_1", "limit": 2})
    names = [customer.id for customer in last.auto_paging_iter()]
    assert names == ["cus_more_0", "cus_more_1", "cus_more_2", "cus_more_3"]


def test_objects_are_created(client: stripe.StripeClient) -> None:
    customer = client.customers.create({"email": "a@example.com", "metadata": {"team": "a"}})
    price = client.prices.create(
        {
            "currency": "usd",
            "unit_amount": 2,
            "product": "prod_1",
            "lookup_key": "calls",
            "recurring": {
                "interval": "month",
                "usage_type": "metered",
                "aggregate_usage": "max",
            },
        }
    )
    subscription = client.subscriptions.create(
        {"customer": customer.id, "items": [{"price": price.id, "metadata": {"a": "b"}}]}
    )
    [found] = client.subscriptions.list({"customer": customer.id}).data
    assert found.id == subscription.id
    [item] = client.subscription_items.list({"subscription": found.id}).data
    assert (item.price.id, item.metadata) == (price.id, {"a": "b"})
    assert client.subscription_items.retrieve(item.id).id == item.id
    assert client.customers.retrieve(customer.id).email == "a@example.com"
    assert [p.id for p in client.prices.list({"lookup_keys": ["calls"]}).data] == [price.id]


def test_authentication_error(connect: Connect) -> None:
    with pytest.raises(stripe.AuthenticationError, match="Invalid API Key provided") as refused:
        _use(connect("sk_test_wrong_key_of_another"), 1)
    assert refused.value.http_status == 401
    assert (refused.value.request_id or "").startswith("req_")


def test_permission_error(live: Live, connect: Connect) -> None:
    key = {"key": "rk_test_reads_only", "permissions": ["rak_subscription_read"]}
    live.control("PUT", "/keys", key)
    client = connect("rk_test_reads_only")
    assert client.subscriptions.retrieve("sub_1").id == "sub_1"
    with pytest.raises(stripe.PermissionError, match="rak_usage_record_write"):
        _use(client, 1)


@pytest.mark.parametrize(
    ("form", "param", "code", "message"),
    [
        ({"quantity": 1.5}, "quantity", "parameter_invalid_integer", "Invalid integer: 1.5"),
        ({"quantity": 1, "timestamp": START}, "timestamp", None, "last invoice period"),
        ({"quantity": 1, "bogus": 1}, "bogus", "parameter_unknown", "unknown parameter"),
        ({}, "quantity", "parameter_missing", "Missing required param"),
    ],
)
def test_invalid_request_error(
    client: stripe.StripeClient,
    form: Any,
    param: str,
    code: str | None,
    message: str,
) -> None:
    with pytest.raises(stripe.InvalidRequestError, match=message) as refused:
        client.subscription_items.usage_records.create("si_1", form)
    assert (refused.value.http_status, refused.value.param, refused.value.code) == (
        400,
        param,
        code,
    )


def test_invalid_request_error_for_unknown_ids(client: stripe.StripeClient) -> None:
    with pytest.raises(stripe.InvalidRequestError, match="No such subscription item: 'si_no'") as e:
        _use(client, 1, item="si_no")
    assert (e.value.http_status, e.value.code) == (404, "resource_missing")


def test_basil_does_not_know_usage_records(connect: Connect) -> None:
    with pytest.raises(stripe.InvalidRequestError, match="Unrecognized request URL") as refused:
        _use(connect(version="2025-03-31.basil"), 1)
    assert refused.value.http_status == 404


def _list_many_times(client: stripe.StripeClient) -> None:
    for _ in range(1_000):
        client.customers.list()


def test_rate_limit_error(live: Live, client: stripe.StripeClient) -> None:
    live.control("PATCH", "/settings", {"global_limit_per_second": 1})
    with pytest.raises(stripe.RateLimitError) as refused:
        _list_many_times(client)
    assert _headers(refused.value)["stripe-rate-limited-reason"] == "global-rate"


def test_rate_limit_error_for_a_lock(live: Live, client: stripe.StripeClient) -> None:
    live.control("POST", "/faults", {"kind": "lock_timeout"})
    with pytest.raises(stripe.RateLimitError, match="cannot be accessed right now") as refused:
        _use(client, 1)
    assert "stripe-rate-limited-reason" not in _headers(refused.value)


def test_a_key_is_replayed(live: Live, client: stripe.StripeClient) -> None:
    first = _use(client, 3, key="k")
    again = _use(client, 3, key="k")
    assert first.id == again.id
    response = again.last_response
    assert response is not None
    assert response.headers["Idempotent-Replayed"] == "true"
    assert len(live.ledger()) == 1


def test_idempotency_error(client: stripe.StripeClient) -> None:
    _use(client, 3, key="k")
    with pytest.raises(stripe.IdempotencyError, match="same parameters"):
        _use(client, 4, key="k")


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "status", "status": 500},
        {"kind": "stored_error"},
        {"kind": "key_in_use"},
        {"kind": "garbage"},
        {"kind": "status", "status": 502, "body": "<html>"},
    ],
)
def test_api_error(live: Live, client: stripe.StripeClient, fault: dict[str, object]) -> None:
    live.control("POST", "/faults", fault)
    with pytest.raises(stripe.APIError):
        _use(client, 1)


@pytest.mark.parametrize("when", ["before_execution", "after_execution", "mid_answer"])
@pytest.mark.parametrize("reset", [False, True])
def test_api_connection_error(
    live: Live, client: stripe.StripeClient, when: str, *, reset: bool
) -> None:
    live.control("POST", "/faults", {"kind": "cut", "when": when, "reset": reset})
    with pytest.raises(stripe.APIConnectionError):
        _use(client, 5, key="k")
    assert len(live.ledger()) == (0 if when == "before_execution" else 1)
    assert _use(client, 5, key="k").quantity == 5
    assert len(live.ledger()) == 1


def test_its_own_retries_come_through_a_cut_and_an_outage(live: Live, connect: Connect) -> None:
    live.control("POST", "/faults", {"kind": "cut", "when": "after_execution"})
    live.control("POST", "/faults", {"kind": "status", "status": 503, "skip": 1})
    client = connect(retries=3)
    client.subscription_items.usage_records.create("si_1", {"quantity": 2, "timestamp": NOW})
    [call] = live.ledger()
    assert call["quantity"] == 2
    counts = live.control("GET", "/requests")["operations"]["create_usage_record"]
    assert (counts["by_status"], counts["cut"], counts["replayed"]) == ({"200": 1, "503": 1}, 1, 1)


def test_how_a_subscription_goes_on_is_created_and_read(
    live: Live, client: stripe.StripeClient
) -> None:
    created = client.subscriptions.create(
        {
            "customer": "cus_1",
            "items": [{"price": "price_1"}],
            "metadata": {"openmeter_subject": "acme"},
            "cancel_at": END + 5,
            "trial_end": NOW + 60,
            "trial_settings": {"end_behavior": {"missing_payment_method": "pause"}},
            "billing_thresholds": {"amount_gte": 500, "reset_billing_cycle_anchor": True},
        }
    )
    live.control("PUT", f"/subscriptions/{created.id}/pause_collection", {"behavior": "void"})
    live.control("POST", "/clock/advance", {"seconds": 60})
    found = client.subscriptions.retrieve(created.id)
    assert (found.status, found.cancel_at, found.cancel_at_period_end) == ("paused", END + 5, False)
    assert found.metadata == {"openmeter_subject": "acme"}
    assert found.pause_collection is not None
    assert (found.pause_collection.behavior, found.pause_collection.resumes_at) == ("void", None)
    assert found.billing_thresholds is not None
    assert found.billing_thresholds.reset_billing_cycle_anchor is True
    assert found.trial_settings is not None
    assert found.trial_settings.end_behavior.missing_payment_method == "pause"
    assert (found.trial_start, found.trial_end) == (NOW, NOW + 60)
    listed = client.subscriptions.list({"customer": "cus_1", "status": "paused"}).data
    assert [entry.id for entry in listed] == [created.id]


def test_both_cancellation_dates_are_refused(client: stripe.StripeClient) -> None:
    with pytest.raises(stripe.InvalidRequestError) as caught:
        client.subscriptions.create(
            {
                "customer": "cus_1",
                "items": [{"price": "price_1"}],
                "cancel_at": END,
                "cancel_at_period_end": True,
            }
        )
    assert caught.value.param == "cancel_at"


def test_a_period_that_a_threshold_cut_short_is_summarised(
    live: Live, client: stripe.StripeClient
) -> None:
    records = client.subscription_items.usage_records
    live.control("PUT", "/subscriptions/sub_1/thresholds", {"amount_gte": 500})
    with pytest.raises(stripe.InvalidRequestError) as caught:
        records.create("si_1", {"quantity": 4, "timestamp": NOW - 5, "action": "set"})
    assert caught.value.param == "action"
    records.create("si_1", {"quantity": 4, "timestamp": NOW - 5})
    live.control("POST", "/subscriptions/sub_1/thresholds/reach", {})
    live.control("POST", "/clock/advance", {"seconds": 10})
    records.create("si_1", {"quantity": 3, "timestamp": "now"})
    now, before = client.subscription_items.usage_record_summaries.list("si_1").data
    assert (now.total_usage, now.invoice, now.period.start) == (3, None, NOW)
    assert (before.total_usage, before.period.start, before.period.end) == (4, START, NOW)
    assert before.invoice is not None
