"""Reading customers, prices, subscriptions and items: filters, pages, versions, keys."""

import base64

import pytest

from tests.sandbox.world import AUTH, END, KEY, NOW, START, World, assert_shape, error_of, unix


async def _with_items(world: World, count: int) -> list[str]:
    items = [{"id": f"si_many_{n:03d}", "price": "price_1"} for n in range(count)]
    body = {"id": "sub_many", "customer": "cus_1", "items": items}
    await world.control("POST", "/subscriptions", body)
    return [item["id"] for item in items]


@pytest.mark.parametrize(("limit", "sizes"), [(None, [10, 10, 7]), (25, [25, 2]), (100, [27])])
async def test_items_are_paged(world: World, limit: int | None, sizes: list[int]) -> None:
    names = await _with_items(world, 27)
    asked: dict[str, str | int] = {"subscription": "sub_many"}
    if limit is not None:
        asked["limit"] = limit
    seen: list[str] = []
    for number, size in enumerate(sizes, start=1):
        page = (await world.get("/subscription_items", **asked)).json()
        assert_shape(page, "list")
        for item in page["data"]:
            assert_shape(item, "subscription_item")
        assert len(page["data"]) == size
        assert page["has_more"] == (number < len(sizes))
        seen += [item["id"] for item in page["data"]]
        asked["starting_after"] = seen[-1]
    assert seen == names


async def test_pages_go_backwards(world: World) -> None:
    names = await _with_items(world, 7)
    asked: dict[str, str | int] = {"subscription": "sub_many", "limit": 3}
    page = (await world.get("/subscription_items", ending_before=names[5], **asked)).json()
    assert ([item["id"] for item in page["data"]], page["has_more"]) == (names[2:5], True)
    page = (await world.get("/subscription_items", ending_before=names[2], **asked)).json()
    assert ([item["id"] for item in page["data"]], page["has_more"]) == (names[:2], False)


async def test_a_subscription_shows_ten_items(world: World) -> None:
    names = await _with_items(world, 11)
    items = (await world.get("/subscriptions/sub_many")).json()["items"]
    assert ([item["id"] for item in items["data"]], items["has_more"]) == (names[:10], True)


@pytest.mark.parametrize(
    ("asked", "param", "message"),
    [
        ({"limit": 0}, "limit", "greater than or equal to 1"),
        ({"limit": 101}, "limit", "less than or equal to 100"),
        ({"limit": "x"}, "limit", "Invalid integer: x"),
        ({"starting_after": "si_no"}, "starting_after", "No such subscription item: 'si_no'"),
        ({"starting_after": "si_1", "ending_before": "si_1"}, "ending_before", "Received both"),
        ({"subscription": "sub_no"}, "subscription", "No such subscription: 'sub_no'"),
        ({"customer": "cus_1"}, "customer", "Received unknown parameter: customer"),
    ],
)
async def test_bad_questions_are_refused(
    world: World, asked: dict[str, str | int], param: str, message: str
) -> None:
    answer = await world.get("/subscription_items", **({"subscription": "sub_1"} | asked))
    error = error_of(answer)
    assert (answer.status_code, error["param"]) == (400, param)
    assert message in error["message"]


async def test_items_of_no_subscription_are_refused(world: World) -> None:
    error = error_of(await world.get("/subscription_items"))
    assert (error["code"], error["param"]) == ("parameter_missing", "subscription")


@pytest.mark.parametrize(
    ("path", "noun"),
    [
        ("/customers/no", "customer"),
        ("/prices/no", "price"),
        ("/subscriptions/no", "subscription"),
        ("/subscription_items/no", "subscription item"),
        ("/subscription_items/no/usage_record_summaries", "subscription item"),
    ],
)
async def test_unknown_ids(world: World, path: str, noun: str) -> None:
    answer = await world.get(path)
    error = error_of(answer)
    assert (answer.status_code, error["code"]) == (404, "resource_missing")
    assert error["message"] == f"No such {noun}: 'no'"


@pytest.fixture
async def subscriptions(world: World) -> World:
    """sub_1 active; sub_canceled; sub_trial of another customer with another price."""
    await world.control("POST", "/customers", {"id": "cus_2"})
    await world.control("POST", "/prices", {"id": "price_2"})
    for body in (
        {"id": "sub_canceled", "customer": "cus_1", "items": [{"price": "price_1"}]},
        {
            "id": "sub_trial",
            "customer": "cus_2",
            "items": [{"price": "price_2"}],
            "trial_end": END,
        },
    ):
        await world.control("POST", "/subscriptions", body)
    await world.control("POST", "/subscriptions/sub_canceled/cancel", {})
    return world


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({}, ["sub_trial", "sub_1"]),
        ({"status": "all"}, ["sub_trial", "sub_canceled", "sub_1"]),
        ({"status": "canceled"}, ["sub_canceled"]),
        ({"status": "ended"}, ["sub_canceled"]),
        ({"status": "trialing"}, ["sub_trial"]),
        ({"customer": "cus_1"}, ["sub_1"]),
        ({"customer": "cus_1", "status": "all"}, ["sub_canceled", "sub_1"]),
        ({"price": "price_2"}, ["sub_trial"]),
        ({"limit": 1, "starting_after": "sub_trial"}, ["sub_1"]),
    ],
)
async def test_subscriptions_are_filtered(
    subscriptions: World, asked: dict[str, str | int], found: list[str]
) -> None:
    page = (await subscriptions.get("/subscriptions", **asked)).json()
    assert [entry["id"] for entry in page["data"]] == found


async def test_subscriptions_of_an_unknown_customer(world: World) -> None:
    answer = await world.get("/subscriptions", customer="cus_no")
    assert (answer.status_code, error_of(answer)["code"]) == (400, "resource_missing")


async def test_prices_are_found_by_lookup_key(world: World) -> None:
    await world.control("POST", "/prices", {"id": "price_2", "lookup_key": "seats"})
    page = (await world.get("/prices", **{"lookup_keys[]": "seats"})).json()
    assert [price["id"] for price in page["data"]] == ["price_2"]
    page = (await world.get("/prices", active="true")).json()
    assert [price["id"] for price in page["data"]] == ["price_2", "price_1"]


async def test_a_lookup_key_is_held_by_one_price(world: World) -> None:
    answer = await world.client.post(
        "/_sandbox/prices", json={"id": "price_2", "lookup_key": "tokens"}
    )
    assert (answer.status_code, error_of(answer)["param"]) == (400, "lookup_key")
    body = {"id": "price_2", "lookup_key": "tokens", "transfer_lookup_key": True}
    await world.control("POST", "/prices", body)
    assert (await world.get("/prices/price_1")).json()["lookup_key"] is None


async def test_the_period_stands_on_the_subscription_until_basil(world: World) -> None:
    found = (await world.get("/subscriptions/sub_1")).json()
    assert (found["current_period_start"], found["current_period_end"]) == (START, END)
    assert "current_period_end" not in found["items"]["data"][0]
    world.headers["Stripe-Version"] = "2025-03-31.basil"
    found = (await world.get("/subscriptions/sub_1")).json()
    assert "current_period_end" not in found
    assert found["items"]["data"][0]["current_period_end"] == END


@pytest.mark.parametrize("version", ["2025-03-31.basil", "2025-08-27.basil", "2026-01-28.clover"])
async def test_usage_records_are_gone_from_basil_on(world: World, version: str) -> None:
    world.headers["Stripe-Version"] = version
    path = "/v1/subscription_items/si_1/usage_record"
    answer = await world.use()
    assert answer.status_code == 404
    assert error_of(answer)["message"].startswith(f"Unrecognized request URL (POST: {path}s).")
    assert answer.headers["stripe-version"] == version
    listed = await world.get("/subscription_items/si_1/usage_record_summaries")
    assert error_of(listed)["message"].startswith(
        f"Unrecognized request URL (GET: {path}_summaries)."
    )


@pytest.mark.parametrize("version", ["2025-02-24.acacia", "2019-12-03"])
async def test_older_versions_are_echoed(world: World, version: str) -> None:
    world.headers["Stripe-Version"] = version
    answer = await world.use()
    assert (answer.status_code, answer.headers["stripe-version"]) == (200, version)


async def test_without_a_version_the_accounts_default_counts(world: World) -> None:
    assert (await world.use()).headers["stripe-version"] == "2025-02-24.acacia"
    await world.set(default_version="2025-03-31.basil")
    assert (await world.use()).status_code == 404


async def test_a_version_that_is_none_is_refused(world: World) -> None:
    world.headers["Stripe-Version"] = "latest"
    answer = await world.get("/customers")
    assert answer.status_code == 400
    assert error_of(answer)["message"] == "Invalid Stripe API version: latest"


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (None, "You did not provide an API key."),
        ("Bearer ", "You did not provide an API key."),
        ("Basic !!!", "You did not provide an API key."),
        ("Bearer sk_test_51wrongwrong", "Invalid API Key provided: sk_test_********rong"),
        ("Bearer short", "Invalid API Key provided: *****"),
    ],
)
async def test_bad_keys_are_401(world: World, header: str | None, message: str) -> None:
    world.headers.clear()
    if header is not None:
        world.headers["Authorization"] = header
    answer = await world.use()
    assert answer.status_code == 401
    assert message in error_of(answer)["message"]
    assert answer.headers["request-id"].startswith("req_")
    assert await world.ledger() == []


async def test_a_key_can_come_as_basic_auth(world: World) -> None:
    world.headers["Authorization"] = "Basic " + base64.b64encode(f"{KEY}:".encode()).decode()
    assert (await world.get("/customers")).status_code == 200


@pytest.mark.parametrize(
    ("path", "permission"),
    [
        ("/customers", "rak_customer_read"),
        ("/prices", "rak_plan_read"),
        ("/subscriptions", "rak_subscription_read"),
        ("/subscription_items/si_1", "rak_subscription_read"),
        ("/subscription_items/si_1/usage_record_summaries", "rak_usage_record_read"),
    ],
)
async def test_a_restricted_key_is_told_what_it_lacks(
    world: World, path: str, permission: str
) -> None:
    world.headers["Authorization"] = "Bearer rk_test_restricted"
    body = {"key": "rk_test_restricted", "permissions": ["rak_usage_record_write"]}
    await world.control("PUT", "/keys", body)
    answer = await world.get(path)
    assert answer.status_code == 403
    assert f"'{permission}'" in error_of(answer)["message"]
    assert (await world.use()).status_code == 200
    await world.control("PUT", "/keys", body | {"permissions": [permission]})
    assert (await world.get(path)).status_code == 200
    assert "'rak_usage_record_write'" in error_of(await world.use())["message"]


async def test_a_revoked_key_is_unknown(world: World) -> None:
    await world.control("POST", "/keys/revoke", {"key": KEY})
    assert (await world.get("/customers")).status_code == 401


async def test_connected_accounts(world: World) -> None:
    world.headers["Stripe-Account"] = "acct_1"
    answer = await world.use()
    assert (answer.status_code, error_of(answer)["code"]) == (403, "account_invalid")
    await world.set(connected_accounts=["acct_1"])
    assert (await world.use()).status_code == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/v1"),
        ("GET", "/v1/"),
        ("GET", "/v1/invoices"),
        ("GET", "/v2/customers"),
        ("GET", "/v1/customers/"),
        ("GET", "/v1/customers//x"),
        ("GET", "/v1/customers/cus_1/balance"),
        ("GET", "/v1/subscription_items/si_1/usage_records"),
        ("GET", "/v1/subscription_items/si_1/usage_records/mbur_1"),
        ("DELETE", "/v1/customers/cus_1"),
        ("PUT", "/v1/customers"),
    ],
)
async def test_unknown_urls(world: World, method: str, path: str) -> None:
    answer = await world.client.request(method, path, headers=AUTH)
    error = error_of(answer)
    assert answer.status_code == 404
    assert error["type"] == "invalid_request_error"
    assert error["message"].startswith(f"Unrecognized request URL ({method}: {path}).")


@pytest.mark.parametrize("content_type", ["application/json", "multipart/form-data", "text/plain"])
async def test_bodies_are_forms(world: World, content_type: str) -> None:
    answer = await world.client.post(
        "/v1/subscription_items/si_1/usage_records",
        content=b'{"quantity": 1}',
        headers=AUTH | {"Content-Type": content_type},
    )
    assert answer.status_code == 400
    assert "application/x-www-form-urlencoded" in error_of(answer)["message"]
    assert await world.ledger() == []


async def test_objects_are_created_through_the_public_api(empty: World) -> None:
    customer = (
        await empty.post("/customers", {"email": "b@example.com", "metadata[team]": "a"})
    ).json()
    form = {
        "currency": "usd",
        "unit_amount": 3,
        "product": "prod_1",
        "lookup_key": "calls",
        "recurring[interval]": "month",
        "recurring[usage_type]": "metered",
        "recurring[aggregate_usage]": "max",
    }
    price = (await empty.post("/prices", form)).json()
    assert price["recurring"]["aggregate_usage"] == "max"
    form = {
        "customer": customer["id"],
        "items[0][price]": price["id"],
        "items[0][metadata][a]": "b",
        "items[1][price]": price["id"],
        "items[1][billing_thresholds][usage_gte]": 9,
        "trial_period_days": 7,
        "backdate_start_date": NOW - 60,
    }
    subscription = (await empty.post("/subscriptions", form)).json()
    assert (subscription["status"], subscription["customer"]) == ("trialing", customer["id"])
    assert subscription["current_period_end"] == NOW + 7 * 86_400
    first, second = subscription["items"]["data"]
    assert (first["metadata"], second["billing_thresholds"]) == ({"a": "b"}, {"usage_gte": 9})
    page = (await empty.get("/customers", email="b@example.com")).json()
    assert [entry["id"] for entry in page["data"]] == [customer["id"]]
    assert (await empty.get(f"/customers/{customer['id']}")).json()["metadata"] == {"team": "a"}


@pytest.mark.parametrize(
    ("path", "form", "param"),
    [
        ("/prices", {"currency": "usd"}, None),
        ("/prices", {"recurring[interval]": "month"}, "currency"),
        ("/prices", {"currency": "usd", "recurring[interval]": "hour"}, "interval"),
        ("/prices", {"currency": "usd", "recurring": "month"}, "recurring"),
        ("/subscriptions", {"customer": "cus_1"}, "items"),
        ("/subscriptions", {"customer": "cus_1", "items[0]": "price_1"}, "items"),
        ("/subscriptions", {"customer": "cus_1", "items[x][price]": "price_1"}, "items"),
        ("/subscriptions", {"customer": "cus_no", "items[0][price]": "price_1"}, "customer"),
        ("/subscriptions", {"customer": "cus_1", "items[0][price]": "price_no"}, "items"),
        ("/subscriptions", {"customer": "cus_1", "items[0][plan]": "price_1"}, "plan"),
        ("/customers", {"metadata[a][b]": "c"}, "metadata[a]"),
    ],
)
async def test_bad_creations_are_refused(
    world: World, path: str, form: dict[str, object], param: str | None
) -> None:
    answer = await world.post(path, form)
    assert answer.status_code == 400
    assert param is None or error_of(answer)["param"] == param


async def test_a_trial_becomes_active_and_its_end_is_the_anchor(subscriptions: World) -> None:
    await subscriptions.clock(unix("2026-04-01T00:00:00"))
    found = (await subscriptions.get("/subscriptions/sub_trial")).json()
    assert (found["status"], found["billing_cycle_anchor"]) == ("active", END)
    assert found["current_period_end"] == unix("2026-05-01T00:00:00")


async def test_a_cancellation_at_the_periods_end_waits_for_it(world: World) -> None:
    await world.use(quantity=3)
    await world.control("POST", "/subscriptions/sub_1/cancel", {"at_period_end": True})
    found = (await world.get("/subscriptions/sub_1")).json()
    assert (found["status"], found["cancel_at"]) == ("active", END)
    assert (await world.use()).status_code == 200
    await world.clock(END)
    found = (await world.get("/subscriptions/sub_1")).json()
    assert (found["status"], found["ended_at"]) == ("canceled", END)
    assert "no longer active" in error_of(await world.use(timestamp=END))["message"]
    [march] = await world.summaries()
    assert march["invoice"] == found["latest_invoice"]
