"""The period moves: thresholds, plans, trials, pauses, cancellations."""

from typing import Any

import pytest

from tests.sandbox.world import DAY, END, NOW, START, World, error_of, unix

_CLOSED = "timestamps must be after the subscription's last invoice period"
_ENDED = "because the subscription item is no longer active"
APRIL = unix("2026-04-15T12:00:00")  # a month after NOW


async def _move(world: World, path: str, body: object = None, *, method: str = "POST") -> Any:
    return await world.control(method, f"/subscriptions/sub_1{path}", body)


async def _shown(world: World, *names: str) -> list[Any]:
    document = (await world.get("/subscriptions/sub_1")).json()
    return [document[name] for name in names]


async def _period(world: World) -> list[Any]:
    return await _shown(world, "current_period_start", "current_period_end")


async def _refused(world: World, path: str, body: object, *, method: str = "POST") -> str:
    answer = await world.client.request(method, f"/_sandbox/subscriptions/sub_1{path}", json=body)
    assert answer.status_code == 400
    message: str = error_of(answer)["message"]
    return message


async def _periods(world: World, item: str = "si_1") -> list[tuple[int, int, bool, int]]:
    """The item's periods, newest first: start, end, whether invoiced, total."""
    return [
        (s["period"]["start"], s["period"]["end"], s["invoice"] is not None, s["total_usage"])
        for s in await world.summaries(item)
    ]


@pytest.mark.parametrize(
    ("standing", "asked", "end"),
    [(False, None, END), (True, None, APRIL), (False, True, APRIL), (True, False, END)],
)
async def test_a_threshold_that_is_reached_begins_a_period(
    world: World, standing: bool, asked: bool | None, end: int
) -> None:
    thresholds = {"amount_gte": 1_000, "reset_billing_cycle_anchor": standing}
    shown = await _move(world, "/thresholds", thresholds, method="PUT")
    assert shown["billing_thresholds"] == thresholds
    await world.use(quantity=4, timestamp=NOW - 5, action="increment")
    await _move(world, "/thresholds/reach", {"reset_billing_cycle_anchor": asked})
    assert await _period(world) == [NOW, end]
    for at in (NOW - 5, NOW):
        refused = await world.use(timestamp=at, action="increment")
        assert _CLOSED in error_of(refused)["message"]
    await world.clock(NOW + 10)
    await world.use(quantity=2, timestamp=NOW + 1, action="increment")
    assert await _periods(world) == [(NOW, end, False, 2), (START, NOW, True, 4)]
    await world.clock(end)
    following = unix("2026-05-15T12:00:00") if end == APRIL else unix("2026-05-01T00:00:00")
    assert await _period(world) == [end, following]


async def test_a_threshold_in_the_second_of_a_periods_start_cuts_nothing(world: World) -> None:
    for _ in range(2):
        await _move(world, "/thresholds/reach", {"reset_billing_cycle_anchor": True})
    assert [period[:2] for period in await _periods(world)] == [(NOW, APRIL), (START, NOW)]


@pytest.mark.parametrize("status", ["trialing", "canceled"])
async def test_no_threshold_counts_then(world: World, status: str) -> None:
    await _move(world, "", {"status": status}, method="PATCH")
    assert status in await _refused(world, "/thresholds/reach", {})


async def test_no_threshold_resets_the_anchor_beside_last_ever(world: World) -> None:
    await world.control("POST", "/prices", {"id": "price_2", "aggregate_usage": "last_ever"})
    reset = {"amount_gte": 5, "reset_billing_cycle_anchor": True}
    await _move(world, "/thresholds", reset, method="PUT")
    assert "last_ever" in await _refused(world, "/items", {"price": "price_2"})
    await _move(world, "/thresholds", {"amount_gte": 5}, method="PUT")
    await _move(world, "/items", {"id": "si_2", "price": "price_2"})
    assert "last_ever" in await _refused(world, "/thresholds", reset, method="PUT")
    draft = {
        "customer": "cus_1",
        "items": [{"price": "price_2"}],
        "reset_billing_cycle_anchor": True,
    }
    answer = await world.client.post("/_sandbox/subscriptions", json=draft)
    assert (answer.status_code, len((await world.get("/subscriptions")).json()["data"])) == (400, 1)


@pytest.mark.parametrize(("reset", "period"), [(False, [START, END]), (True, [NOW, APRIL])])
async def test_a_plan_change_replaces_all_items(
    world: World, reset: bool, period: list[int]
) -> None:
    await _move(world, "/items", {"id": "si_2", "price": "price_1"})
    await world.use("si_1", quantity=4, timestamp=NOW - 5)
    items = [{"id": "si_3", "price": "price_1"}]
    shown = await _move(world, "/plan", {"items": items, "reset_anchor": reset})
    assert [item["id"] for item in shown["items"]["data"]] == ["si_3"]
    assert await _period(world) == period
    for old in ("si_1", "si_2"):
        assert _ENDED in error_of(await world.use(old))["message"]
    await world.clock(NOW + 5)
    assert (await world.use("si_3", quantity=9, timestamp=NOW + 1)).status_code == 200
    await world.clock(unix("2026-05-20T00:00:00"))
    # What the old item held is billed with the period it stood in, and it has none after that.
    assert await _periods(world, "si_1") == [(START, NOW if reset else END, True, 4)]
    assert (await _periods(world, "si_3"))[-1] == (*period, True, 9)


@pytest.mark.parametrize("gone", [False, True])
async def test_a_plan_change_may_drop_usage(world: World, gone: bool) -> None:
    await world.use(quantity=4)
    plan = {"items": [{"price": "price_1"}], "clear_usage": True, "gone": gone}
    await _move(world, "/plan", plan)
    assert await world.records("si_1") == {}
    assert (await world.use("si_1")).status_code == (404 if gone else 400)
    assert [call["quantity"] for call in await world.ledger()] == [4]


async def test_dropping_usage_leaves_closed_periods_alone(world: World) -> None:
    await world.use(quantity=4)
    await world.clock(END + 10)
    await world.use(quantity=5, timestamp=END + 9)
    await world.control("POST", "/subscription_items/si_1/end", {"clear_usage": True})
    assert [period[3] for period in await _periods(world)] == [0, 4]


async def test_another_interval_begins_a_period_of_its_own(world: World) -> None:
    await world.control("POST", "/prices", {"id": "price_year", "interval": "year"})
    await _move(world, "/plan", {"items": [{"price": "price_year"}]})
    assert await _period(world) == [NOW, unix("2027-03-15T12:00:00")]


async def test_a_plan_change_on_trial_waits_for_the_trials_end(world: World) -> None:
    await _move(world, "/trial_end", {"at": NOW + DAY}, method="PUT")
    await world.control("POST", "/prices", {"id": "price_year", "interval": "year"})
    plan: dict[str, object] = {"items": [{"price": "price_year"}]}
    assert "trial" in await _refused(world, "/plan", plan | {"reset_anchor": True})
    await _move(world, "/plan", plan)
    assert await _period(world) == [NOW, NOW + DAY]
    await world.clock(NOW + DAY)
    assert await _period(world) == [NOW + DAY, unix("2027-03-16T12:00:00")]


@pytest.mark.parametrize(
    "items",
    [
        [{"price": "price_no"}],
        [{"price": "price_1"}, {"price": "price_week"}],
        [{"price": "price_eur"}],
        [{"id": "si_1", "price": "price_1"}],
    ],
)
async def test_a_plan_change_that_does_not_go_together_changes_nothing(
    world: World, items: list[dict[str, str]]
) -> None:
    await world.control("POST", "/prices", {"id": "price_week", "interval": "week"})
    await world.control("POST", "/prices", {"id": "price_eur", "currency": "eur"})
    await _refused(world, "/plan", {"items": items})
    assert (await world.use()).status_code == 200
    assert await _period(world) == [START, END]


async def test_a_price_is_switched_in_place(world: World) -> None:
    await world.control("POST", "/prices", {"id": "price_2"})
    await world.control("POST", "/prices", {"id": "price_max", "aggregate_usage": "max"})
    await world.use(quantity=4)
    item = await world.control("PUT", "/subscription_items/si_1/price", {"price": "price_2"})
    assert (item["id"], item["price"]["id"]) == ("si_1", "price_2")
    assert await world.records() == {NOW: 4}
    answer = await world.client.put(
        "/_sandbox/subscription_items/si_1/price", json={"price": "price_max"}
    )
    assert answer.status_code == 400


async def test_a_trial_that_ends_now_begins_a_period(world: World) -> None:
    await _move(world, "/trial_end", {"at": NOW + 10 * DAY}, method="PUT")
    shown = await _shown(world, "status", "trial_start", "trial_end", "billing_cycle_anchor")
    assert shown == ["trialing", NOW, NOW + 10 * DAY, NOW + 10 * DAY]
    assert await _period(world) == [NOW, NOW + 10 * DAY]
    await world.clock(NOW + DAY)
    await world.use(quantity=3, timestamp=NOW + 5)
    await _move(world, "/trial_end", {"at": None}, method="PUT")
    assert await _shown(world, "status", "trial_end") == ["active", NOW + DAY]
    assert await _period(world) == [NOW + DAY, unix("2026-04-16T12:00:00")]
    assert _CLOSED in error_of(await world.use(timestamp=NOW + 6))["message"]
    assert (await _periods(world))[1] == (NOW, NOW + DAY, True, 3)


async def test_a_trials_end_is_put_off_and_usage_stays_in_its_period(world: World) -> None:
    await _move(world, "/trial_end", {"at": NOW + DAY}, method="PUT")
    await world.clock(NOW + 10)
    await world.use(quantity=3, timestamp=NOW + 5)
    await _move(world, "/trial_end", {"at": NOW + 3 * DAY}, method="PUT")
    await world.clock(NOW + 2 * DAY)
    assert (await world.use(quantity=4, timestamp=NOW + 6)).status_code == 200
    assert (await _periods(world))[0] == (NOW, NOW + 3 * DAY, False, 7)
    await world.clock(NOW + 3 * DAY)
    assert await _shown(world, "status", "billing_cycle_anchor") == ["active", NOW + 3 * DAY]


@pytest.mark.parametrize(("at", "message"), [(None, "not on trial"), (NOW, "in the future")])
async def test_a_trial_end_that_makes_no_sense_is_refused(
    world: World, at: int | None, message: str
) -> None:
    assert message in await _refused(world, "/trial_end", {"at": at}, method="PUT")


async def test_paused_collection_changes_no_period(world: World) -> None:
    pause = {"behavior": "void", "resumes_at": END + 5}
    shown = await _move(world, "/pause_collection", pause, method="PUT")
    assert (shown["pause_collection"], shown["status"]) == (pause, "active")
    assert (await world.use(quantity=4)).status_code == 200
    await world.clock(END + 4)
    assert await _shown(world, "pause_collection") == [pause]
    assert (await world.use(quantity=1, timestamp=END + 3)).status_code == 200
    assert [period[2:] for period in await _periods(world)] == [(False, 1), (True, 4)]
    await world.clock(END + 5)
    assert await _shown(world, "pause_collection") == [None]


async def test_paused_collection_is_taken_up_again(world: World) -> None:
    await _move(world, "/pause_collection", {}, method="PUT")
    assert (await _move(world, "/pause_collection", method="DELETE"))["pause_collection"] is None


_TRIAL_END = NOW + DAY


async def _trial(world: World, missing_payment_method: str) -> None:
    body = {
        "id": "sub_1",
        "customer": "cus_1",
        "items": [{"id": "si_1", "price": "price_1"}],
        "start_date": NOW,
        "trial_end": _TRIAL_END,
        "missing_payment_method": missing_payment_method,
    }
    await world.control("POST", "/reset")
    await world.clock(NOW)
    await world.control("POST", "/customers", {"id": "cus_1"})
    await world.control("POST", "/prices", {"id": "price_1"})
    await world.control("POST", "/subscriptions", body)


@pytest.mark.parametrize(
    ("behavior", "status", "invoiced", "taken"),
    [
        ("create_invoice", "active", True, True),
        ("pause", "paused", False, True),
        ("cancel", "canceled", False, False),
    ],
)
async def test_a_trial_without_payment_method_ends_as_it_was_told(
    world: World, behavior: str, status: str, invoiced: bool, taken: bool
) -> None:
    await _trial(world, behavior)
    await world.clock(_TRIAL_END + 10)
    assert await _shown(world, "status") == [status]
    assert (await _periods(world))[-1] == (NOW, _TRIAL_END, invoiced, 0)
    answer = await world.use(timestamp=_TRIAL_END + 5)
    assert answer.status_code == (200 if taken else 400)


@pytest.mark.parametrize("reset", [True, False])
async def test_a_paused_subscription_has_periods_without_invoices_until_it_is_resumed(
    world: World, reset: bool
) -> None:
    await _trial(world, "pause")
    second = unix("2026-04-16T12:00:00")
    await world.clock(second + DAY)
    assert await _period(world) == [second, unix("2026-05-16T12:00:00")]
    shown = await _move(world, "/resume", {"reset_anchor": reset})
    assert shown["status"] == "active"
    start = second + DAY if reset else second
    assert await _period(world) == [start, unix(f"2026-05-{17 if reset else 16}T12:00:00")]
    await world.clock(unix("2026-06-01T00:00:00"))
    invoiced = [(entry[0], entry[2]) for entry in await _periods(world)]
    assert [start for start, has_invoice in invoiced if has_invoice] == [start]
    assert "paused" in await _refused(world, "/resume", {})


@pytest.mark.parametrize(
    ("how", "shown", "ends_at"),
    [
        ({"at": NOW + DAY}, [NOW + DAY, False], NOW + DAY),
        ({"at": END + DAY}, [END + DAY, False], END + DAY),
        ({"at": END}, [END, False], END),
        ({"at_period_end": True}, [END, True], END),
    ],
)
async def test_a_cancellation_ahead_is_shown_and_carried_out(
    world: World, how: dict[str, Any], shown: list[Any], ends_at: int
) -> None:
    await _move(world, "/cancel", how)
    names = ["cancel_at", "cancel_at_period_end"]
    assert await _shown(world, *names, "canceled_at", "status") == [*shown, NOW, "active"]
    await world.use(quantity=4)
    await world.clock(ends_at - 1)
    assert (await world.use(quantity=5, timestamp=ends_at - 2)).status_code == 200
    await world.clock(ends_at)
    after = await _shown(world, *names, "ended_at", "status", "current_period_end")
    assert after == [*shown, ends_at, "canceled", ends_at]
    assert _ENDED in error_of(await world.use(timestamp=ends_at - 1))["message"]
    periods = await _periods(world)
    assert periods[0][1:3] == (ends_at, True)
    assert sum(period[3] for period in periods) == 9
    await world.clock(ends_at + 90 * DAY)
    assert await _periods(world) == periods


async def test_a_cancellation_ahead_is_taken_back(world: World) -> None:
    for how in ({"at": NOW + DAY}, {"at_period_end": True}):
        await _move(world, "/cancel", how)
        kept = await _move(world, "/keep")
        assert [kept[n] for n in ("cancel_at", "cancel_at_period_end", "canceled_at")] == [
            None,
            False,
            None,
        ]
    await world.clock(END + DAY)
    assert await _shown(world, "status") == ["active"]
    await _move(world, "/cancel", {})
    assert "canceled" in await _refused(world, "/keep", None)
    assert "canceled" in await _refused(world, "/trial_end", {"at": END + 9 * DAY}, method="PUT")


@pytest.mark.parametrize(("invoice_now", "invoiced"), [(False, False), (True, True)])
async def test_an_end_now_bills_only_when_told_to(
    world: World, invoice_now: bool, invoiced: bool
) -> None:
    await world.use(quantity=4)
    await _move(world, "/cancel", {"at_period_end": True})
    shown = await _move(world, "/cancel", {"invoice_now": invoice_now})
    assert (shown["cancel_at"], shown["cancel_at_period_end"]) == (None, False)
    assert await _periods(world) == [(START, NOW, invoiced, 4)]
    [item] = (await world.control("GET", "/totals"))["items"]
    assert item["periods"][0]["closed"] is True


@pytest.mark.parametrize(
    ("how", "status"),
    [({"at": NOW}, 400), ({"at": NOW + 5, "at_period_end": True}, 422)],
)
async def test_a_cancellation_that_makes_no_sense_is_refused(
    world: World, how: dict[str, Any], status: int
) -> None:
    answer = await world.client.post("/_sandbox/subscriptions/sub_1/cancel", json=how)
    assert answer.status_code == status
    assert await _shown(world, "cancel_at", "canceled_at") == [None, None]


async def test_a_cancellation_at_the_periods_end_moves_with_the_period(world: World) -> None:
    await _move(world, "/cancel", {"at_period_end": True})
    await _move(world, "/thresholds/reach", {"reset_billing_cycle_anchor": True})
    assert await _shown(world, "cancel_at") == [APRIL]


async def test_grace_after_a_reset_is_for_items_that_were_there(world: World) -> None:
    await world.set(grace_seconds=60)
    plan = {"items": [{"id": "si_2", "price": "price_1"}], "reset_anchor": True}
    await _move(world, "/plan", plan)
    await world.clock(NOW + 10)
    assert _CLOSED in error_of(await world.use("si_2", timestamp=NOW - 5))["message"]
    await _move(world, "/thresholds/reach", {})
    await world.clock(NOW + 20)
    assert (await world.use("si_2", timestamp=NOW + 10, quantity=6)).status_code == 200
    assert [period[3] for period in await _periods(world, "si_2")] == [0, 6]
    [call] = await world.ledger()
    assert (call["timestamp"], call["period_start"]) == (NOW + 10, NOW)
