"""Usage records: what is taken, what is refused and how, and what it adds up to."""

from typing import Any

import pytest

from tests.sandbox.world import DAY, END, NOW, START, World, assert_shape, error_of, unix

_CLOSED = (
    "timestamps must be after the subscription's last invoice period (or current period start time)"
)
_ENDED = "because the subscription item is no longer active"
_METERED = "is not on the legacy metered billing system. Call /v1/billing/meter_events instead."


async def test_a_usage_record_is_answered_in_full(world: World) -> None:
    answer = await world.use(quantity=100)
    assert answer.status_code == 200
    assert_shape(answer.json(), "usage_record")
    assert answer.json() | {"id": ""} == {
        "id": "",
        "object": "usage_record",
        "livemode": False,
        "quantity": 100,
        "subscription_item": "si_1",
        "timestamp": NOW,
    }


async def test_set_overwrites_at_the_same_timestamp_only(world: World) -> None:
    for quantity, at in [(5, NOW - 10), (3, NOW - 10), (2, NOW - 9)]:
        await world.use(quantity=quantity, timestamp=at)
    assert await world.records() == {NOW - 10: 3, NOW - 9: 2}
    assert (await world.summaries())[0]["total_usage"] == 5


async def test_increment_is_the_default_and_adds(world: World) -> None:
    for _ in range(3):
        answer = await world.use(quantity=5, action=None)
    assert answer.json()["quantity"] == 15
    assert await world.records() == {NOW: 15}


@pytest.mark.parametrize("timestamp", ["now", None])
async def test_the_timestamp_defaults_to_now(world: World, timestamp: str | None) -> None:
    answer = await world.use(timestamp=timestamp)
    assert answer.json()["timestamp"] == NOW


async def test_set_to_zero_undoes(world: World) -> None:
    await world.use(quantity=9)
    await world.use(quantity=0)
    assert (await world.summaries())[0]["total_usage"] == 0


@pytest.mark.parametrize(
    ("form", "param", "code", "message"),
    [
        ({"quantity": "10.0"}, "quantity", "parameter_invalid_integer", "Invalid integer: 10.0"),
        ({"quantity": "1e3"}, "quantity", "parameter_invalid_integer", "Invalid integer: 1e3"),
        ({"quantity": "-1"}, "quantity", "parameter_invalid_integer", "greater than or equal to 0"),
        ({"quantity": ""}, "quantity", "parameter_invalid_empty", "empty string"),
        ({"quantity": None}, "quantity", "parameter_missing", "Missing required param: quantity."),
        ({"action": "add"}, "action", None, "must be one of increment, or set"),
        ({"timestamp": "soon"}, "timestamp", None, "must be an integer Unix timestamp"),
        ({"timestamp": "1.5"}, "timestamp", None, "must be an integer Unix timestamp"),
        ({"timestamp": START}, "timestamp", None, _CLOSED),
        ({"timestamp": START - 1}, "timestamp", None, _CLOSED),
        ({"timestamp": 0}, "timestamp", None, _CLOSED),
        ({"timestamp": NOW + 1}, "timestamp", None, "must not be in the future"),
        ({"timestamp": NOW * 1000}, "timestamp", None, "must not be in the future"),
        ({"value": 1}, "value", "parameter_unknown", "Received unknown parameter: value"),
        ({"expand[0]": "x"}, "expand", None, "cannot be expanded"),
    ],
)
async def test_refusals_of_parameters(
    world: World, form: dict[str, object], param: str, code: str | None, message: str
) -> None:
    answer = await world.use_form(form)
    error = error_of(answer)
    assert answer.status_code == 400
    assert (error["type"], error.get("param"), error.get("code")) == (
        "invalid_request_error",
        param,
        code,
    )
    assert message in error["message"]
    assert await world.ledger() == []


@pytest.mark.parametrize("at", [START + 1, NOW - 1, NOW])
async def test_the_current_period_takes_what_is_after_its_start(world: World, at: int) -> None:
    assert (await world.use(timestamp=at)).status_code == 200


async def test_a_new_subscription_refuses_the_second_of_its_start(world: World) -> None:
    body = {"customer": "cus_1", "items": [{"id": "si_new", "price": "price_1"}]}
    await world.control("POST", "/subscriptions", body)
    assert _CLOSED in error_of(await world.use("si_new", timestamp="now"))["message"]
    await world.control("POST", "/clock/advance", {"seconds": 1})
    assert (await world.use("si_new", timestamp="now")).status_code == 200


async def test_usage_at_the_end_of_a_period_comes_when_the_period_is_shut(world: World) -> None:
    await world.clock(END)
    assert _CLOSED in error_of(await world.use(timestamp=END))["message"]
    assert _CLOSED in error_of(await world.use(timestamp=END - 1))["message"]


async def test_some_future_can_be_tolerated(world: World) -> None:
    await world.set(future_tolerance_seconds=300)
    assert (await world.use(timestamp=NOW + 300)).status_code == 200
    assert (await world.use(timestamp=NOW + 301)).status_code == 400


@pytest.mark.parametrize(
    ("aggregate", "after_end", "at", "status"),
    [
        ("sum", 59, END - 1, 200),
        ("sum", 59, END, 200),
        ("sum", 60, END, 400),
        ("sum", 59, START, 400),
        ("max", 59, END - 1, 400),
        ("last_during_period", 59, END - 1, 400),
        ("last_ever", 59, END - 1, 400),
    ],
)
async def test_grace_is_for_sums_alone(
    world: World, aggregate: str, after_end: int, at: int, status: int
) -> None:
    await world.set(grace_seconds=60)
    await world.control("POST", "/prices", {"id": "price_2", "aggregate_usage": aggregate})
    await world.control("POST", "/subscriptions/sub_1/items", {"id": "si_2", "price": "price_2"})
    await world.clock(END + after_end)
    answer = await world.use("si_2", timestamp=at, quantity=4)
    assert answer.status_code == status
    if status == 200:
        newest, closed = await world.summaries("si_2")
        assert (newest["total_usage"], closed["total_usage"]) == (0, 4)
        assert closed["invoice"].startswith("in_")


async def _end(world: World) -> None:
    await world.control("POST", "/subscription_items/si_1/end")


async def _delete(world: World) -> None:
    await world.control("DELETE", "/subscription_items/si_1")


async def _cancel(world: World) -> None:
    await world.control("POST", "/subscriptions/sub_1/cancel", {})


async def _expire(world: World) -> None:
    await world.control("PATCH", "/subscriptions/sub_1", {"status": "incomplete_expired"})


async def _meter(world: World) -> None:
    await world.control("PUT", "/prices/price_1/meter", {"meter": "mtr_1"})


async def _replace(world: World) -> None:
    await world.control("POST", "/subscription_items/si_1/replace", {"id": "si_2"})


async def _replace_without_trace(world: World) -> None:
    body = {"id": "si_2", "gone": True}
    await world.control("POST", "/subscription_items/si_1/replace", body)


async def _thresholds(world: World) -> None:
    await world.control("PUT", "/subscriptions/sub_1/thresholds", {"amount_gte": 5_000})


async def _item_thresholds(world: World) -> None:
    await world.control("PUT", "/subscription_items/si_1/thresholds", {"usage_gte": 10})


@pytest.mark.parametrize(
    ("change", "status", "code", "message"),
    [
        (_end, 400, None, _ENDED),
        (_delete, 404, "resource_missing", "No such subscription item: 'si_1'"),
        (_cancel, 400, None, _ENDED),
        (_expire, 400, None, _ENDED),
        (_meter, 400, None, _METERED),
        (_replace, 400, None, _ENDED),
        (_replace_without_trace, 404, "resource_missing", "No such subscription item: 'si_1'"),
        (_thresholds, 400, None, "billing thresholds"),
        (_item_thresholds, 400, None, "billing thresholds"),
    ],
)
async def test_refusals_of_items(
    world: World, change: Any, status: int, code: str | None, message: str
) -> None:
    await change(world)
    answer = await world.use()
    error = error_of(answer)
    assert (answer.status_code, error.get("code")) == (status, code)
    assert message in error["message"]
    assert await world.ledger() == []


async def test_a_licensed_price_has_no_usage(world: World) -> None:
    await world.control("POST", "/prices", {"id": "price_2", "usage_type": "licensed"})
    await world.control("POST", "/subscriptions/sub_1/items", {"id": "si_2", "price": "price_2"})
    assert "usage_type=licensed" in error_of(await world.use("si_2"))["message"]
    listed = await world.get("/subscription_items/si_2/usage_record_summaries")
    assert "usage_type=licensed" in error_of(listed)["message"]
    item = (await world.get("/subscription_items/si_2")).json()
    assert (item["quantity"], item["price"]["recurring"]["aggregate_usage"]) == (1, None)


@pytest.mark.parametrize("change", [_thresholds, _item_thresholds])
async def test_thresholds_allow_increments(world: World, change: Any) -> None:
    await change(world)
    assert (await world.use(action="increment")).status_code == 200
    assert (await world.use(action=None)).status_code == 200


@pytest.mark.parametrize("status", ["trialing", "active", "past_due", "unpaid"])
async def test_usage_is_taken_in_every_living_status(world: World, status: str) -> None:
    await world.control("PATCH", "/subscriptions/sub_1", {"status": status})
    assert (await world.use()).status_code == 200


async def test_the_new_item_of_a_plan_change_takes_usage(world: World) -> None:
    await _replace(world)
    assert (await world.use("si_2")).status_code == 200
    listed = (await world.get("/subscription_items", subscription="sub_1")).json()
    assert [item["id"] for item in listed["data"]] == ["si_2"]
    assert (await world.get("/subscription_items/si_1")).status_code == 404


@pytest.mark.parametrize(
    ("aggregate", "total"),
    [("sum", 12), ("max", 7), ("last_during_period", 2), ("last_ever", 2)],
)
async def test_a_period_adds_up_by_the_prices_aggregate(
    world: World, aggregate: str, total: int
) -> None:
    await world.control("POST", "/prices", {"id": "price_2", "aggregate_usage": aggregate})
    await world.control("POST", "/subscriptions/sub_1/items", {"id": "si_2", "price": "price_2"})
    for quantity, at in [(3, NOW - 30), (2, NOW - 10), (7, NOW - 20)]:
        await world.use("si_2", quantity=quantity, timestamp=at)
    assert (await world.summaries("si_2"))[0]["total_usage"] == total
    await world.clock(END + 1)
    carried = total if aggregate == "last_ever" else 0
    assert [entry["total_usage"] for entry in await world.summaries("si_2")] == [carried, total]


async def test_summaries_are_newest_first_and_closed_ones_have_an_invoice(world: World) -> None:
    await world.use(quantity=4)
    await world.clock(unix("2026-05-02T00:00:00"))
    await world.use(quantity=1, timestamp=unix("2026-05-01T08:00:00"))
    newest, april, march = await world.summaries()
    for summary in (newest, april, march):
        assert_shape(summary, "usage_record_summary")
    assert [s["total_usage"] for s in (newest, april, march)] == [1, 0, 4]
    assert newest["invoice"] is None
    assert april["invoice"] != march["invoice"]
    assert march["period"] == {"start": START, "end": END}
    assert newest["period"]["start"] == april["period"]["end"]


async def test_summaries_are_paged(world: World) -> None:
    await world.clock(START + 400 * DAY)
    path = "/subscription_items/si_1/usage_record_summaries"
    first = (await world.get(path)).json()
    assert_shape(first, "list")
    assert (len(first["data"]), first["has_more"]) == (10, True)
    rest = (await world.get(path, starting_after=first["data"][-1]["id"])).json()
    assert (len(rest["data"]), rest["has_more"]) == (4, False)
    assert rest["data"][-1]["period"]["start"] == START


async def test_an_item_has_no_summary_of_the_time_before_it(world: World) -> None:
    await world.clock(END + 1)
    await world.control("POST", "/subscriptions/sub_1/items", {"id": "si_2", "price": "price_1"})
    assert len(await world.summaries("si_2")) == 1
    assert len(await world.summaries("si_1")) == 2


async def test_summaries_of_a_metered_item_are_elsewhere(world: World) -> None:
    await _meter(world)
    answer = await world.get("/subscription_items/si_1/usage_record_summaries")
    assert "Call /v1/billing/meters/:id/event_summaries instead." in error_of(answer)["message"]


async def test_an_immediate_cancellation_drops_the_open_period(world: World) -> None:
    await world.use(quantity=4)
    await _cancel(world)
    await world.clock(END + DAY)
    [only] = await world.summaries()
    assert (only["invoice"], only["period"]["end"]) == (None, NOW)
