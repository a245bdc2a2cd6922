"""Each kind of fault, in-process."""

import pytest

from app.sandbox.faults import Faults
from app.sandbox.server import SandboxApp
from app.sandbox.wire import ConnectionCut
from tests.sandbox.world import NOW, World, error_of


async def test_a_made_up_answer_executes_nothing(world: World) -> None:
    await world.inject("status", status=503, retry_after=7)
    answer = await world.use(key="k")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "7")
    assert error_of(answer)["type"] == "api_error"
    assert answer.headers["request-id"].startswith("req_")
    assert await world.ledger() == []
    assert "idempotent-replayed" not in (await world.use(key="k")).headers


async def test_a_made_up_answer_can_be_any_error(world: World) -> None:
    error = {"type": "invalid_request_error", "code": "c", "message": "m", "param": "p"}
    await world.inject("status", status=402, error=error)
    answer = await world.use()
    assert answer.status_code == 402
    assert error.items() <= error_of(answer).items()


async def test_a_made_up_answer_can_be_a_proxys(world: World) -> None:
    await world.inject("status", status=502, body="<html>", content_type="text/html")
    answer = await world.use()
    assert (answer.status_code, answer.text) == (502, "<html>")
    assert answer.headers["content-type"] == "text/html"


@pytest.mark.parametrize(
    "reason",
    [
        "global-rate",
        "global-concurrency",
        "endpoint-rate",
        "endpoint-concurrency",
        "resource-specific",
    ],
)
async def test_every_limiter(world: World, reason: str) -> None:
    await world.inject("rate_limited", reason=reason, retry_after="2")
    answer = await world.use()
    assert (answer.status_code, answer.headers["stripe-rate-limited-reason"]) == (429, reason)
    assert answer.headers["retry-after"] == "2"
    assert error_of(answer)["code"] == "rate_limit"


async def test_lock_timeout(world: World) -> None:
    await world.inject("lock_timeout")
    answer = await world.use()
    assert (answer.status_code, error_of(answer)["code"]) == (429, "lock_timeout")
    assert "stripe-rate-limited-reason" not in answer.headers


async def test_key_in_use(world: World) -> None:
    await world.inject("key_in_use")
    answer = await world.use(key="k")
    assert (answer.status_code, error_of(answer)["code"]) == (409, "idempotency_key_in_use")


async def test_garbage_is_executed_and_the_stored_answer_is_whole(world: World) -> None:
    await world.inject("garbage", body="not json", content_type="text/html")
    answer = await world.use(action="increment", key="k")
    assert (answer.status_code, answer.text) == (200, "not json")
    assert answer.headers["content-type"] == "text/html"
    assert await world.records() == {NOW: 7}
    again = await world.use(action="increment", key="k")
    assert (again.json()["quantity"], again.headers["idempotent-replayed"]) == (7, "true")


async def test_garbage_can_come_with_another_status(world: World) -> None:
    await world.inject("garbage", status=504)
    assert (await world.use()).status_code == 504
    assert len(await world.ledger()) == 1


@pytest.mark.parametrize("version", ["2024-06-20", None])
async def test_another_version_is_echoed(world: World, version: str | None) -> None:
    await world.inject("version_echo", version=version)
    answer = await world.use()
    assert (answer.status_code, answer.headers.get("stripe-version")) == (200, version)


async def test_headers_are_set_and_taken_away(world: World) -> None:
    headers = {"Request-Id": None, "Stripe-Should-Retry": "false"}
    await world.inject("headers", headers=headers)
    answer = await world.use()
    assert "request-id" not in answer.headers
    assert answer.headers["stripe-should-retry"] == "false"


@pytest.mark.parametrize(
    ("when", "executed"),
    [("before_execution", 0), ("after_execution", 1), ("mid_answer", 1)],
)
async def test_a_cut_connection(world: World, when: str, executed: int) -> None:
    await world.inject("cut", when=when)
    with pytest.raises(ConnectionCut):
        await world.use(action="increment", key="k")
    assert len(await world.ledger()) == executed
    answer = await world.use(action="increment", key="k")
    assert ("idempotent-replayed" in answer.headers) is bool(executed)
    assert await world.records() == {NOW: 7}
    counts = (await world.control("GET", "/requests"))["operations"]["create_usage_record"]
    assert (counts["cut"], counts["total"]) == (1, 2)


@pytest.mark.parametrize("phase", ["arrival", "execution", "answer"])
async def test_latency_delays_the_answer_and_changes_nothing_else(world: World, phase: str) -> None:
    await world.inject("latency", ms=1, phase=phase)
    assert (await world.use()).status_code == 200
    assert (await world.control("GET", "/faults"))[0]["met"] == 1


async def test_faults_add_up(world: World) -> None:
    await world.inject("status", status=500)
    await world.inject("status", status=503)
    await world.inject("headers", headers={"X-One": "1"})
    answer = await world.use()
    assert (answer.status_code, answer.headers["x-one"]) == (500, "1")


@pytest.mark.parametrize(
    ("match", "statuses"),
    [
        ({}, [500, 500, 500, 500]),
        ({"operation": "create_usage_record"}, [500, 500, 200, 200]),
        ({"operation": "retrieve_subscription"}, [200, 200, 500, 200]),
        ({"object_id": "si_2"}, [200, 500, 200, 200]),
        ({"subscription": "sub_1"}, [500, 500, 500, 200]),
        ({"idempotency_key": "k"}, [500, 200, 200, 200]),
        ({"operation": "create_usage_record", "object_id": "si_2"}, [200, 500, 200, 200]),
    ],
)
async def test_faults_meet_what_they_match(
    world: World, match: dict[str, str], statuses: list[int]
) -> None:
    await world.control("POST", "/subscriptions/sub_1/items", {"id": "si_2", "price": "price_1"})
    await world.inject("status", status=500, match=match, times=None)
    answers = [
        await world.use("si_1", key="k"),
        await world.use("si_2"),
        await world.get("/subscriptions/sub_1"),
        await world.get("/customers"),
    ]
    assert [answer.status_code for answer in answers] == statuses


async def test_faults_are_counted_and_skip(world: World) -> None:
    await world.inject("status", status=500, skip=1, times=2)
    answers = [(await world.use()).status_code for _ in range(5)]
    assert answers == [200, 500, 500, 200, 200]
    [fault] = await world.control("GET", "/faults")
    assert (fault["matched"], fault["met"]) == (3, 2)


async def test_a_seed_repeats_itself(world: World) -> None:
    await world.set(limit_per_second=0)
    rows = []
    for _ in range(2):
        fault = await world.inject("status", status=500, probability=0.5, seed=3, times=None)
        rows.append([(await world.get("/customers")).status_code for _ in range(40)])
        await world.control("DELETE", f"/faults/{fault['id']}")
    assert rows[0] == rows[1]
    assert set(rows[0]) == {200, 500}


async def test_faults_are_cleared(world: World) -> None:
    await world.inject("status", status=500, times=None)
    await world.inject("status", status=500, times=None)
    await world.control("DELETE", "/faults")
    assert await world.control("GET", "/faults") == []
    assert (await world.use()).status_code == 200


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "unheard_of"},
        {"kind": "latency"},
        {"kind": "cut", "when": "sometime"},
        {"kind": "status", "status": 99},
        {"kind": "lock_timeout", "times": 0},
        {"kind": "lock_timeout", "match": {"operation": "fly"}},
        {"kind": "lock_timeout", "tiems": 1},
    ],
)
async def test_faults_that_mean_nothing_are_refused(world: World, fault: dict[str, object]) -> None:
    assert (await world.client.post("/_sandbox/faults", json=fault)).status_code == 422
    assert await world.control("GET", "/faults") == []


async def test_a_spent_fault_is_no_longer_asked_but_still_listed(
    world: World, shared_app: SandboxApp
) -> None:
    faults: Faults = shared_app.state.sandbox.faults
    await world.inject("status", status=503, times=2)
    always = await world.inject("rate_limited", times=None, match={"object_id": "si_no"})
    assert [(await world.use(key=f"k-{n}")).status_code for n in range(3)] == [503, 503, 200]
    assert [entry["met"] for entry in await world.control("GET", "/faults")] == [2, 0]
    assert faults
    await world.control("DELETE", f"/faults/{always['id']}")
    assert not faults  # nothing is left that could meet a request
    assert [entry["met"] for entry in await world.control("GET", "/faults")] == [2]


async def test_a_fault_names_the_request_that_it_met_last(world: World) -> None:
    await world.inject("lock_timeout", times=2)
    assert (await world.control("GET", "/faults"))[0]["last_met"] is None
    for key in ("first", "second"):
        await world.use(key=key)
    [fault] = await world.control("GET", "/faults")
    assert fault["last_met"] == {
        "operation": "create_usage_record",
        "object_id": "si_1",
        "subscription": "sub_1",
        "idempotency_key": "second",
    }
