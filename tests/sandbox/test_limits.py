"""Rate limits and locks."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.sandbox.ratelimit import RateLimiter
from tests.sandbox.world import World, error_of


@given(
    st.integers(1, 5),
    st.lists(st.floats(0, 0.6, allow_nan=False), min_size=1, max_size=60),
)
def test_no_second_ever_has_more_than_the_limit(limit: int, gaps: list[float]) -> None:
    now = 0.0
    limiter = RateLimiter(lambda: now)
    admitted: list[float] = []
    for gap in gaps:
        now += gap
        if limiter.refusal("a", limit=limit, global_limit=0) is None:
            admitted.append(now)
        else:
            # Refused only when the last second really is full.
            assert len([at for at in admitted if at > now - 1]) == limit
    for at in admitted:
        assert len([other for other in admitted if at - 1 < other <= at]) <= limit


def test_endpoints_have_limits_of_their_own_and_one_in_all() -> None:
    limiter = RateLimiter(lambda: 0.0)
    answers = [limiter.refusal(name, limit=2, global_limit=3) for name in "aaabbb"]
    reasons = [
        None if a is None else dict(a.headers)[b"stripe-rate-limited-reason"] for a in answers
    ]
    assert reasons == [None, None, b"endpoint-rate", None, b"global-rate", b"global-rate"]


async def test_the_26th_call_of_a_second_is_refused(world: World) -> None:
    await world.control("POST", "/subscriptions/sub_1/items", {"id": "si_2", "price": "price_1"})
    answers = [await world.use("si_1" if n % 2 else "si_2", quantity=n) for n in range(60)]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert [answer.status_code for answer in answers[:25]] == [200] * 25
    # A slow machine may need more than the second, so only the kind of refusal is asserted.
    assert refused
    for answer in refused:
        assert answer.headers["stripe-rate-limited-reason"] == "endpoint-rate"
        assert error_of(answer)["code"] == "rate_limit"
    assert (await world.get("/customers")).status_code == 200
    assert len(await world.ledger()) == 60 - len(refused)


async def test_limits_can_be_changed_and_taken_away(world: World) -> None:
    await world.set(limit_per_second=1, global_limit_per_second=0)
    answers = [await world.get("/customers") for _ in range(3)]
    assert 429 in {answer.status_code for answer in answers}
    await world.set(limit_per_second=0)
    answers = [await world.get("/customers") for _ in range(60)]
    assert {answer.status_code for answer in answers} == {200}
    await world.set(global_limit_per_second=1)
    answers = [await world.get(path) for path in ("/customers", "/prices", "/customers")]
    reasons = {answer.headers.get("stripe-rate-limited-reason") for answer in answers}
    assert "global-rate" in reasons


async def test_two_writes_to_one_subscription_collide(world: World) -> None:
    await world.control("POST", "/subscriptions/sub_1/items", {"id": "si_2", "price": "price_1"})
    body = {"id": "sub_2", "customer": "cus_1", "items": [{"id": "si_3", "price": "price_1"}]}
    await world.control("POST", "/subscriptions", body)
    await world.control("POST", "/clock/advance", {"seconds": 1})
    await world.set(write_latency_ms=200)
    answers = await asyncio.gather(
        *(world.use(item, timestamp="now") for item in ("si_1", "si_2", "si_3"))
    )
    assert [answer.status_code for answer in answers] == [200, 429, 200]
    error = error_of(answers[1])
    assert error["code"] == "lock_timeout"
    assert error["message"].startswith("This object cannot be accessed right now")
    assert "stripe-rate-limited-reason" not in answers[1].headers
    assert answers[1].headers["stripe-should-retry"] == "true"
    assert (await world.use("si_2")).status_code == 200


async def test_a_lock_is_let_go_after_a_refusal(world: World) -> None:
    await world.set(write_latency_ms=1)
    assert (await world.use(timestamp=0)).status_code == 400
    assert (await world.use()).status_code == 200


async def test_reads_wait_for_no_lock(world: World) -> None:
    await world.inject("latency", ms=300, match={"operation": "create_usage_record"})
    write = asyncio.create_task(world.use())
    await world.until_met(write)
    assert (await world.get("/subscriptions/sub_1")).status_code == 200
    assert (await world.get("/subscription_items", subscription="sub_1")).status_code == 200
    assert (await write).status_code == 200


@pytest.mark.parametrize("settings", [{"limit_per_second": -1}, {"grace_seconds": 86_401}])
async def test_settings_out_of_bounds_are_refused(world: World, settings: dict[str, int]) -> None:
    answer = await world.client.patch("/_sandbox/settings", json=settings)
    assert answer.status_code == 400
    assert (await world.control("GET", "/settings"))["limit_per_second"] == 25
