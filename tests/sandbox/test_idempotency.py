"""Idempotency keys: what is replayed, what is refused, what is forgotten."""

import asyncio

import pytest

from tests.sandbox.world import NOW, World, error_of

_DAY = 86_400


async def test_the_first_answer_is_replayed(world: World) -> None:
    first = await world.use(action="increment", key="k")
    again = await world.use(action="increment", key="k")
    assert again.content == first.content
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert again.headers["original-request"] == first.headers["request-id"]
    assert again.headers["request-id"] != first.headers["request-id"]
    assert len(await world.ledger()) == 1
    counts = (await world.control("GET", "/requests"))["operations"]["create_usage_record"]
    assert (counts["total"], counts["replayed"]) == (2, 1)


async def test_without_a_key_each_call_is_executed(world: World) -> None:
    await world.use(action="increment")
    await world.use(action="increment")
    assert await world.records() == {NOW: 14}


async def test_a_key_is_bound_to_its_parameters(world: World) -> None:
    await world.use(quantity=1, key="k")
    answer = await world.use(quantity=2, key="k")
    error = error_of(answer)
    assert (answer.status_code, error["type"]) == (400, "idempotency_error")
    assert "same parameters" in error["message"]
    assert await world.records() == {NOW: 1}


async def test_a_key_is_bound_to_its_path(world: World) -> None:
    await world.control("POST", "/subscriptions/sub_1/items", {"id": "si_2", "price": "price_1"})
    await world.use("si_1", key="k")
    error = error_of(await world.use("si_2", key="k"))
    assert error["type"] == "idempotency_error"
    assert "/v1/subscription_items/si_1/usage_records" in error["message"]


async def test_a_key_belongs_to_its_account(world: World) -> None:
    await world.set(connected_accounts=["acct_1"])
    await world.use(action="increment", key="k")
    world.headers["Stripe-Account"] = "acct_1"
    other = await world.use(action="increment", key="k")
    assert "idempotent-replayed" not in other.headers


async def test_the_accounts_keys_share_their_idempotency_keys(world: World) -> None:
    await world.use(action="increment", key="k")
    await world.control("PUT", "/keys", {"key": "sk_test_rolled"})
    world.headers["Authorization"] = "Bearer sk_test_rolled"
    assert (await world.use(action="increment", key="k")).headers["idempotent-replayed"] == "true"


async def test_a_key_in_flight_is_409_and_then_replayed(world: World) -> None:
    await world.inject("latency", ms=300, phase="execution")
    first = asyncio.create_task(world.use(action="increment", key="k"))
    await world.until_met(first)
    answer = await world.use(action="increment", key="k")
    error = error_of(answer)
    assert (answer.status_code, error["code"]) == (409, "idempotency_key_in_use")
    assert answer.headers["stripe-should-retry"] == "true"
    assert (await first).status_code == 200
    assert (await world.use(action="increment", key="k")).headers["idempotent-replayed"] == "true"
    assert len(await world.ledger()) == 1


@pytest.mark.parametrize("form", [{"quantity": "1.5"}, {"extra": 1}, {"timestamp": "x"}])
async def test_validation_failures_are_not_stored(world: World, form: dict[str, object]) -> None:
    assert (await world.use_form(form, key="k")).status_code == 400
    assert (await world.use(key="k")).status_code == 200


async def test_a_refused_key_is_not_stored(world: World) -> None:
    good = dict(world.headers)
    world.headers["Authorization"] = "Bearer sk_test_wrong_key"
    assert (await world.use(key="k")).status_code == 401
    world.headers = good
    assert "idempotent-replayed" not in (await world.use(key="k")).headers


@pytest.mark.parametrize("kind", ["rate_limited", "lock_timeout", "key_in_use"])
async def test_429_and_409_are_not_stored(world: World, kind: str) -> None:
    await world.inject(kind)
    assert (await world.use(key="k")).status_code in {429, 409}
    answer = await world.use(key="k")
    assert answer.status_code == 200
    assert "idempotent-replayed" not in answer.headers


async def test_refusals_made_while_executing_are_stored(world: World) -> None:
    await world.control("PUT", "/prices/price_1/meter", {"meter": "mtr_1"})
    assert (await world.use(key="k")).status_code == 400
    await world.control("PUT", "/prices/price_1/meter", {"meter": None})
    again = await world.use(key="k")
    assert (again.status_code, again.headers["idempotent-replayed"]) == (400, "true")
    assert (await world.use(key="other")).status_code == 200


async def test_storing_refusals_can_be_turned_off(world: World) -> None:
    await world.set(store_refusals=False)
    await world.control("PUT", "/prices/price_1/meter", {"meter": "mtr_1"})
    assert (await world.use(key="k")).status_code == 400
    await world.control("PUT", "/prices/price_1/meter", {"meter": None})
    assert (await world.use(key="k")).status_code == 200


@pytest.mark.parametrize(("executed", "stands"), [(False, {}), (True, {NOW: 7})])
async def test_a_stored_500_is_replayed_but_not_under_a_new_key(
    world: World, *, executed: bool, stands: dict[int, int]
) -> None:
    await world.inject("stored_error", executed=executed)
    first = await world.use(key="k")
    assert (first.status_code, first.headers["stripe-should-retry"]) == (500, "false")
    assert error_of(first)["type"] == "api_error"
    again = await world.use(key="k")
    assert (again.status_code, again.headers["idempotent-replayed"]) == (500, "true")
    assert again.content == first.content
    assert await world.records() == stands
    assert (await world.use(key="k-2")).status_code == 200
    assert await world.records() == {NOW: 7}


@pytest.mark.parametrize(("seconds", "replayed"), [(_DAY - 1, True), (_DAY, False)])
async def test_a_key_is_kept_for_a_day(world: World, seconds: int, *, replayed: bool) -> None:
    await world.use(action="increment", key="k")
    await world.control("POST", "/clock/advance", {"seconds": seconds})
    answer = await world.use(action="increment", key="k")
    assert ("idempotent-replayed" in answer.headers) is replayed
    assert len(await world.ledger()) == (1 if replayed else 2)


@pytest.mark.parametrize(("length", "status"), [(255, 200), (256, 400)])
async def test_keys_have_at_most_255_characters(world: World, length: int, status: int) -> None:
    assert (await world.use(key="k" * length)).status_code == status


async def test_creations_are_idempotent_too(world: World) -> None:
    first = await world.post("/customers", {"email": "c@example.com"}, key="k")
    again = await world.post("/customers", {"email": "c@example.com"}, key="k")
    assert first.json()["id"] == again.json()["id"]


async def test_reads_ignore_keys(world: World) -> None:
    world.headers["Idempotency-Key"] = "k"
    for _ in range(2):
        assert "idempotent-replayed" not in (await world.get("/customers")).headers
