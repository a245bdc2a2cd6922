"""The control API: clock, objects, books, starting over."""

import pytest

from app.sandbox.clock import SandboxClock
from app.sandbox.drafts import CustomerDraft
from app.sandbox.ids import Ids
from app.sandbox.server import create_sandbox
from tests.sandbox.world import DAY, END, KEY, NOW, START, World, error_of, unix


def test_a_clock_runs_stands_and_comes_back() -> None:
    real = 1_000.5
    clock = SandboxClock(lambda: real)
    assert clock.now() == 1_000
    clock.advance(50)
    assert clock.now() == 1_050
    clock.set(5_000)
    real = 1_010.5
    assert (clock.now(), clock.frozen) == (5_010, False)
    clock.set(7_000, frozen=True)
    real = 1_020.5
    clock.advance(1)
    assert (clock.now(), clock.frozen) == (7_001, True)
    clock.reset()
    assert (clock.now(), clock.frozen) == (1_020, False)


def test_two_sandboxes_give_different_ids() -> None:
    assert Ids().new("si") != Ids().new("si")
    assert Ids("t").new("si").startswith("si_1t")


async def test_the_clock_is_read_set_and_advanced(world: World) -> None:
    assert await world.control("GET", "/clock") == {"now": NOW, "frozen": True}
    assert await world.control("POST", "/clock/advance", {"seconds": 5}) == {
        "now": NOW + 5,
        "frozen": True,
    }
    assert (await world.control("PUT", "/clock", {"frozen": False}))["frozen"] is False


async def test_the_clock_does_not_go_back_over_subscriptions(world: World) -> None:
    answer = await world.client.put("/_sandbox/clock", json={"at": NOW - 1})
    assert answer.status_code == 400
    assert "cannot go back" in error_of(answer)["message"]


async def test_the_clock_goes_back_in_an_empty_sandbox(empty: World) -> None:
    await empty.clock(START)
    assert (await empty.control("GET", "/clock"))["now"] == START


async def test_a_backdated_subscription_has_closed_periods(world: World) -> None:
    body = {
        "customer": "cus_1",
        "start_date": unix("2025-12-31T09:00:00"),
        "items": [{"id": "si_2", "price": "price_1"}],
    }
    await world.control("POST", "/subscriptions", body)
    starts = [summary["period"]["start"] for summary in await world.summaries("si_2")]
    assert starts == [unix(f"{day}T09:00:00") for day in ("2026-02-28", "2026-01-31", "2025-12-31")]


@pytest.mark.parametrize(
    ("interval", "count", "end"),
    [
        ("day", 1, NOW + DAY),
        ("week", 2, NOW + 14 * DAY),
        ("month", 1, unix("2026-04-15T12:00:00")),
        ("year", 1, unix("2027-03-15T12:00:00")),
    ],
)
async def test_a_subscription_has_its_prices_rhythm(
    world: World, interval: str, count: int, end: int
) -> None:
    price = {"id": "price_2", "interval": interval, "interval_count": count}
    await world.control("POST", "/prices", price)
    body = {"customer": "cus_1", "items": [{"price": "price_2"}]}
    assert (await world.control("POST", "/subscriptions", body))["current_period_end"] == end


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/customers", {"id": "cus_1"}, 400),
        ("/prices", {"id": "price_1"}, 400),
        ("/prices", {"interval": "hour"}, 422),
        ("/prices", {"aggregate": "max"}, 422),
        ("/subscriptions", {"customer": "cus_no", "items": [{"price": "price_1"}]}, 400),
        ("/subscriptions", {"customer": "cus_1", "items": []}, 422),
        (
            "/subscriptions",
            {"customer": "cus_1", "items": [{"id": "si_1", "price": "price_1"}]},
            400,
        ),
        (
            "/subscriptions",
            {"customer": "cus_1", "items": [{"price": "price_1"}], "start_date": NOW + 1},
            400,
        ),
        (
            "/subscriptions",
            {"customer": "cus_1", "items": [{"price": "price_1"}, {"price": "price_week"}]},
            400,
        ),
        ("/subscriptions/sub_1/items", {"price": "price_week"}, 400),
        ("/subscriptions/sub_no/items", {"price": "price_1"}, 404),
        ("/subscription_items/si_no/end", None, 404),
    ],
)
async def test_what_does_not_go_together_is_refused(
    world: World, path: str, body: object, status: int
) -> None:
    await world.control("POST", "/prices", {"id": "price_week", "interval": "week"})
    answer = await world.client.post(f"/_sandbox{path}", json=body)
    assert answer.status_code == status
    listed = (await world.get("/subscriptions", status="all")).json()
    assert [entry["id"] for entry in listed["data"]] == ["sub_1"]


async def test_a_canceled_subscription_takes_no_items(world: World) -> None:
    await world.control("POST", "/subscriptions/sub_1/cancel", {})
    await world.control("POST", "/subscriptions/sub_1/cancel", {"at_period_end": True})
    answer = await world.client.post(
        "/_sandbox/subscriptions/sub_1/items", json={"price": "price_1"}
    )
    assert answer.status_code == 400
    assert (await world.get("/subscriptions/sub_1")).json()["cancel_at_period_end"] is False


async def test_the_ledger_is_in_order_and_read_in_parts(world: World) -> None:
    await world.control("POST", "/subscriptions/sub_1/items", {"id": "si_2", "price": "price_1"})
    for number, item in enumerate(["si_1", "si_2", "si_1"]):
        await world.use(item, quantity=number, key=f"k-{number}")
    calls = await world.ledger()
    assert [(c["number"], c["subscription_item"], c["quantity"]) for c in calls] == [
        (1, "si_1", 0),
        (2, "si_2", 1),
        (3, "si_1", 2),
    ]
    assert calls[0] | {"request_id": ""} == {
        "number": 1,
        "subscription_item": "si_1",
        "subscription": "sub_1",
        "timestamp": NOW,
        "period_start": START,
        "quantity": 0,
        "action": "set",
        "idempotency_key": "k-0",
        "request_id": "",
        "at": NOW,
    }
    part = await world.control("GET", "/ledger?after=1&limit=1")
    assert ([c["number"] for c in part["calls"]], part["total"]) == ([2], 3)
    part = await world.control("GET", "/ledger?subscription_item=si_1")
    assert [c["number"] for c in part["calls"]] == [1, 3]


async def test_totals_are_kept_by_period_and_for_vanished_items(world: World) -> None:
    await world.use(quantity=4)
    await world.clock(END + 10)
    await world.use(quantity=5, timestamp=END + 9)
    await world.control("DELETE", "/subscription_items/si_1")
    [item] = (await world.control("GET", "/totals"))["items"]
    assert (item["subscription_item"], item["state"], item["price"]) == ("si_1", "gone", "price_1")
    april, march = item["periods"]
    assert (april["total_usage"], april["records"]) == (5, {str(END + 9): 5})
    assert (march["total_usage"], march["records"]) == (4, {str(NOW): 4})
    assert (march["start"], march["end"], april["invoice"]) == (START, END, None)
    assert (march["closed"], april["closed"]) == (True, False)
    assert march["invoice"].startswith("in_")


async def test_totals_are_read_in_parts(world: World) -> None:
    body = {"id": "sub_2", "customer": "cus_1", "items": [{"id": "si_3", "price": "price_1"}]}
    await world.control("POST", "/subscriptions", body)
    await world.control("POST", "/subscriptions/sub_1/items", {"id": "si_2", "price": "price_1"})
    await world.clock(END + 1)

    async def read(asked: str) -> dict[str, int]:
        items = (await world.control("GET", f"/totals?{asked}"))["items"]
        return {item["subscription_item"]: len(item["periods"]) for item in items}

    assert await read("subscription=sub_1") == {"si_1": 2, "si_2": 2}
    assert await read("subscription_item=si_2&periods=1") == {"si_2": 1}
    assert await read("subscription_item=si_2&subscription=sub_2") == {}
    assert await read("periods=1") == {"si_1": 1, "si_2": 1, "si_3": 1}


async def test_a_ledger_may_keep_the_newest_calls_only(world: World) -> None:
    await world.set(ledger_keeps=2)
    for quantity in range(5):
        await world.use(quantity=quantity)
    page = await world.control("GET", "/ledger")
    assert [(call["number"], call["quantity"]) for call in page["calls"]] == [(4, 3), (5, 4)]
    assert page["total"] == 5
    page = await world.control("GET", "/ledger?after=4")
    assert [call["number"] for call in page["calls"]] == [5]
    assert (await world.control("GET", "/ledger?after=9"))["calls"] == []


async def test_metadata_is_given_changed_and_listed(world: World) -> None:
    subject = {"openmeter_subject": "acme"}
    await world.control("POST", "/customers", {"id": "cus_2", "metadata": subject})
    body = {"id": "sub_2", "customer": "cus_2", "items": [{"price": "price_1"}]}
    await world.control("POST", "/subscriptions", body | {"metadata": subject})
    await world.control("PATCH", "/subscriptions/sub_1", {"metadata": {"plan": "pro"}})
    await world.control("PATCH", "/customers/cus_1", {"metadata": {"team": "a"}})
    for noun, wanted in [
        ("customers", {"cus_2": subject, "cus_1": {"team": "a"}}),
        ("subscriptions", {"sub_2": subject, "sub_1": {"plan": "pro"}}),
    ]:
        listed = (await world.get(f"/{noun}")).json()["data"]
        assert {entry["id"]: entry["metadata"] for entry in listed} == wanted
    assert (await world.get("/subscriptions/sub_1")).json()["status"] == "active"


async def test_customers_are_listed_page_by_page(world: World) -> None:
    for number in range(2, 8):
        await world.control("POST", "/customers", {"id": f"cus_{number}"})
    first = (await world.get("/customers", limit=5)).json()
    assert [entry["id"] for entry in first["data"]] == [f"cus_{n}" for n in (7, 6, 5, 4, 3)]
    rest = (await world.get("/customers", limit=5, starting_after="cus_3")).json()
    assert [entry["id"] for entry in rest["data"]] == ["cus_2", "cus_1"]
    assert (first["has_more"], rest["has_more"]) == (True, False)


async def test_a_deleted_customer_is_listed_no_more_and_its_subscriptions_end(
    world: World,
) -> None:
    await world.control("POST", "/customers", {"id": "cus_2"})
    body = {"id": "sub_2", "customer": "cus_2", "items": [{"price": "price_1"}]}
    await world.control("POST", "/subscriptions", body)
    gone = {"id": "cus_2", "object": "customer", "deleted": True}
    assert await world.control("DELETE", "/customers/cus_2") == gone
    assert (await world.get("/customers/cus_2")).json() == gone
    assert [entry["id"] for entry in (await world.get("/customers")).json()["data"]] == ["cus_1"]
    assert (await world.get("/subscriptions/sub_2")).json()["status"] == "canceled"
    assert (await world.get("/subscriptions/sub_1")).json()["status"] == "active"
    answer = await world.client.post("/_sandbox/subscriptions", json=body | {"id": "sub_3"})
    assert answer.status_code == 400


async def test_requests_are_counted_by_operation_and_status(world: World) -> None:
    await world.get("/subscriptions/sub_1")
    await world.get("/subscriptions/sub_no")
    await world.get("/nothing")
    operations = (await world.control("GET", "/requests"))["operations"]
    assert operations == {
        "retrieve_subscription": {
            "total": 2,
            "by_status": {"200": 1, "404": 1},
            "replayed": 0,
            "cut": 0,
        },
        "unrecognized": {"total": 1, "by_status": {"404": 1}, "replayed": 0, "cut": 0},
    }


async def test_reset_is_the_start_again(world: World) -> None:
    await world.control("PUT", "/keys", {"key": "sk_test_second"})
    await world.control("POST", "/keys/revoke", {"key": KEY})
    await world.set(grace_seconds=9)
    await world.inject("status", status=500, times=None)
    await world.control("POST", "/reset")
    assert await world.ledger() == []
    assert (await world.control("GET", "/totals"))["items"] == []
    assert (await world.control("GET", "/requests"))["operations"] == {}
    assert (await world.control("GET", "/faults")) == []
    assert (await world.control("GET", "/settings"))["grace_seconds"] == 0
    assert (await world.control("GET", "/clock"))["frozen"] is False
    assert (await world.get("/customers")).json()["data"] == []
    world.headers["Authorization"] = "Bearer sk_test_second"
    assert (await world.get("/customers")).status_code == 401


async def test_reset_forgets_idempotency_keys(world: World) -> None:
    first = await world.post("/customers", {}, key="k")
    await world.control("POST", "/reset")
    again = await world.post("/customers", {}, key="k")
    assert again.json()["id"] != first.json()["id"]


def test_sandboxes_share_nothing() -> None:
    one, other = create_sandbox(), create_sandbox(api_keys=frozenset({"sk_test_other"}))
    one.state.sandbox.account.create_customer(CustomerDraft(id="cus_1"))
    assert list(other.state.sandbox.account.customers()) == []
    assert other.state.sandbox.keyring.known("sk_test_other") == "sk_test_other"


async def test_every_control_route_is_documented(empty: World) -> None:
    document = (await empty.client.get("/_sandbox/openapi.json")).json()
    operations = [
        operation
        for path, methods in document["paths"].items()
        for operation in methods.values()
        if path.startswith("/_sandbox/")
    ]
    assert len(operations) == 37
    assert all(operation.get("description") for operation in operations)


async def test_an_unknown_control_route_is_404(empty: World) -> None:
    assert (await empty.client.get("/_sandbox/nothing")).status_code == 404
