"""The token bucket on a clock that only sleeping moves."""

import asyncio
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.stripe_client.rate_limit import TokenBucket


class ManualTime:
    """Seconds that pass only when someone sleeps or a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds
        await asyncio.sleep(0)


def bucket(time: ManualTime, rate: float = 20, burst: int = 5) -> TokenBucket:
    return TokenBucket(rate, burst, monotonic=time.monotonic, sleep=time.sleep)


rates = st.floats(0.1, 1000)
bursts = st.integers(1, 30)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("acquire"), st.integers(1, 12)),
        st.tuples(st.just("idle"), st.floats(0, 20)),
        st.tuples(st.just("pause"), st.floats(0, 20)),
    ),
    max_size=25,
)


@given(rates, bursts, steps)
async def test_no_window_holds_more_than_rate_times_its_length_plus_burst(
    rate: float, burst: int, todo: list[tuple[str, float]]
) -> None:
    time = ManualTime()
    limiter = bucket(time, rate, burst)
    grants: list[float] = []
    for action, amount in todo:
        if action == "idle":
            time.now += amount
        elif action == "pause":
            limiter.pause(amount)
        else:
            for _ in range(int(amount)):
                await limiter.acquire()
                grants.append(time.now)
    for first, start in enumerate(grants):
        for last, end in enumerate(grants[first:], start=first):
            assert last - first + 1 <= rate * (end - start) + burst + 1e-6


@given(rates, bursts, st.integers(1, 60))
async def test_under_steady_demand_it_grants_all_that_is_allowed(
    rate: float, burst: int, wanted: int
) -> None:
    time = ManualTime()
    limiter = bucket(time, rate, burst)
    started = time.now
    for _ in range(wanted):
        await limiter.acquire()
    assert math.isclose(time.now - started, max(wanted - burst, 0) / rate, abs_tol=1e-6)


@given(rates, bursts, st.lists(st.floats(0, 60), min_size=1, max_size=4))
async def test_nothing_is_granted_during_a_pause_nor_a_burst_after_it(
    rate: float, burst: int, pauses: list[float]
) -> None:
    time = ManualTime()
    limiter = bucket(time, rate, burst)
    until = time.now + max(pauses)
    for seconds in pauses:
        limiter.pause(seconds)
    await limiter.acquire()
    first = time.now
    await limiter.acquire()
    assert first >= until
    assert time.now - first >= 1 / rate - 1e-6


async def test_a_pause_reaches_a_waiter_that_already_sleeps() -> None:
    time = ManualTime()
    asleep, wake = asyncio.Event(), asyncio.Event()

    async def sleep(seconds: float) -> None:
        asleep.set()
        await wake.wait()
        time.now += seconds

    limiter = TokenBucket(1, 1, monotonic=time.monotonic, sleep=sleep)
    await limiter.acquire()
    waiter = asyncio.create_task(limiter.acquire())
    await asleep.wait()
    limiter.pause(100)
    wake.set()
    await waiter
    assert time.now >= 1100


async def test_waiters_are_served_in_the_order_they_came() -> None:
    time = ManualTime()
    limiter = bucket(time, rate=2, burst=1)
    served: list[int] = []

    async def one(number: int) -> None:
        await limiter.acquire()
        served.append(number)

    async with asyncio.TaskGroup() as group:
        for number in range(50):
            group.create_task(one(number))
    assert served == list(range(50))
    assert math.isclose(time.now - 1000, 49 / 2)


async def test_a_cancelled_waiter_takes_no_grant_and_blocks_nobody() -> None:
    time = ManualTime()
    stuck = asyncio.Event()

    async def sleep(_: float) -> None:
        stuck.set()
        await asyncio.Event().wait()

    limiter = TokenBucket(1, 1, monotonic=time.monotonic, sleep=sleep)
    await limiter.acquire()
    waiter = asyncio.create_task(limiter.acquire())
    await stuck.wait()
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    time.now += 1
    await limiter.acquire()  # would sleep for ever if the cancelled one had taken the grant
    assert limiter._seconds_to_grant() > 0


@pytest.mark.parametrize("rate", [0, -1, math.inf, math.nan])
def test_a_rate_is_a_positive_number(rate: float) -> None:
    with pytest.raises(ValueError, match="rate"):
        TokenBucket(rate, 1)


@pytest.mark.parametrize("burst", [0, -1, True, 1.5])
def test_a_burst_is_a_whole_number(burst: int) -> None:
    with pytest.raises(ValueError, match="burst"):
        TokenBucket(1, burst)


@pytest.mark.parametrize("seconds", [-1, math.inf, math.nan])
def test_a_pause_is_finite(seconds: float) -> None:
    with pytest.raises(ValueError, match="pause"):
        TokenBucket(1, 1).pause(seconds)
