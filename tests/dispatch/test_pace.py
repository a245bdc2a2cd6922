"""One pace for all replicas: slots from one row, slower when Stripe says so, and quicker again."""

import asyncio
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from app.clock import ManualClock
from app.config import Settings
from app.db import transaction
from app.dispatch.pace import MARGIN, Pace, limits_of
from app.dispatch.shared_pace import Lease, PaceLimits, begin_pace, lease_slots, slow_down
from app.stripe_client import StripeClient
from tests.dispatch.ledger import AT, NOW, SeededLedger
from tests.dispatch.stripe_side import StripeSide
from tests.dispatch.workers import sending, until

LIMITS = PaceLimits("test", start=20.0, ceiling=25.0, floor=1.0)
FAST = limits_of("test", start=100.0, ceiling=100.0)


async def lease(
    engine: AsyncEngine,
    *,
    slots: int = 1,
    late: float = 0.0,
    raised: float = 0.0,
    lead: float = 0.0,
    limits: PaceLimits = LIMITS,
) -> Lease:
    async with transaction(engine) as connection:
        found = await lease_slots(
            connection, limits, slots=slots, margin=1.0, late=late, raised=raised, lead=lead
        )
    assert found is not None
    return found


async def begin(engine: AsyncEngine, limits: PaceLimits = LIMITS) -> None:
    async with transaction(engine) as connection:
        await begin_pace(connection, limits)


async def slower(engine: AsyncEngine, *, pause: float, halve: bool, age: float) -> float | None:
    async with transaction(engine) as connection:
        return await slow_down(connection, LIMITS, pause=pause, halve=halve, age=age)


async def ahead(ledger: SeededLedger, by: str = "10 minutes") -> None:
    """As if everybody had leased so far ahead: what is leased now does not depend on the clock."""
    await ledger.run(f"update stripe_pace set next_at = clock_timestamp() + interval '{by}'")


async def rate(ledger: SeededLedger) -> float:
    [row] = await ledger.rows("select rate from stripe_pace")
    found: float = row["rate"]
    return found


@pytest.mark.parametrize(
    ("start", "ceiling", "limits"),
    [
        (20.0, 25.0, (20.0, 25.0, 1.0)),
        (20.0, None, (20.0, 20.0, 1.0)),
        (20.0, 5.0, (5.0, 5.0, 1.0)),
        (0.1, 25.0, (0.1, 25.0, 0.1)),
    ],
)
def test_limits(start: float, ceiling: float | None, limits: tuple[float, float, float]) -> None:
    found = limits_of("live acct_1", start=start, ceiling=ceiling)
    assert (found.start, found.ceiling, found.floor) == limits


@pytest.mark.parametrize(
    ("given", "highest", "side"),
    [
        ({}, 25.0, "test"),
        ({"stripe_rate_limit": 5}, 5.0, "test"),  # somebody's limit is one
        ({"stripe_rate_limit": 5, "stripe_rate_ceiling": 8}, 8.0, "test"),
        ({"stripe_rate_ceiling": 100}, 100.0, "test"),
        ({"stripe_rate_ceiling": ""}, 25.0, "test"),
        ({"stripe_api_key": "rk_live_1"}, 25.0, "live"),
        ({"stripe_api_key": "sk_test_1", "stripe_account": "acct_1"}, 25.0, "test acct_1"),
    ],
)
def test_the_settings_of_an_account(given: dict[str, Any], highest: float, side: str) -> None:
    settings = Settings(_env_file=None, **given)
    assert (settings.highest_rate, settings.stripe_side) == (highest, side)


async def test_no_instant_is_leased_twice(engine: AsyncEngine, ledger: SeededLedger) -> None:
    await begin(engine)
    await ahead(ledger)
    before = (await ledger.rows("select next_at from stripe_pace"))[0]["next_at"]
    sizes = [1, 5, 2, 3, 1, 8, 4, 1]
    leases = await asyncio.gather(*(lease(engine, slots=size) for size in sizes))
    after = (await ledger.rows("select next_at from stripe_pace"))[0]["next_at"]
    assert (after - before).total_seconds() == pytest.approx(sum(sizes) / 20.0)
    assert len({round(found.wait, 1) for found in leases}) > 1
    assert all(found.wait > 500 for found in leases)


async def test_what_nobody_leased_in_time_is_lost(
    engine: AsyncEngine, ledger: SeededLedger
) -> None:
    """A rest is not saved up for a burst."""
    await begin(engine)
    await ahead(ledger, by="-1 hour")
    first = await lease(engine, slots=5)
    assert first.wait <= 0
    assert first.wait > -60
    assert (await lease(engine, slots=1)).wait > first.wait


async def test_a_pause_is_everybodys_and_a_shorter_one_changes_nothing(
    engine: AsyncEngine, ledger: SeededLedger
) -> None:
    await begin(engine)
    await slower(engine, pause=600, halve=False, age=0)
    await slower(engine, pause=1, halve=False, age=0)
    assert 590 < (await lease(engine)).wait <= 600
    assert await rate(ledger) == 20.0


async def test_a_volley_of_refusals_halves_once_and_never_below_the_floor(
    engine: AsyncEngine, ledger: SeededLedger
) -> None:
    await begin(engine)
    assert await slower(engine, pause=0, halve=True, age=1.0) == 10.0
    for _ in range(5):  # they had left before that
        assert await slower(engine, pause=0, halve=True, age=60.0) is None
    for expected in (5.0, 2.5, 1.25, 1.0, 1.0):
        assert await slower(engine, pause=0, halve=True, age=0.0) == expected
    assert await rate(ledger) == 1.0


async def test_it_rises_while_it_is_what_holds_back_and_up_to_the_ceiling(
    engine: AsyncEngine, ledger: SeededLedger
) -> None:
    await begin(engine)
    await ahead(ledger, by="-1 hour")
    await lease(engine, raised=1.0)
    assert await rate(ledger) == 20.0  # nobody had to wait
    for expected in (21.0, 22.0, 23.0, 24.0, 25.0, 25.0):
        await ahead(ledger)
        await lease(engine, raised=1.0)
        assert await rate(ledger) == expected


@pytest.mark.parametrize(("now", "raised"), [(10.0, 1.0), (17.9, 1.0), (18.1, 0.2), (30.0, 0.2)])
async def test_after_a_halving_it_comes_back_quickly_to_just_below_what_was_refused(
    engine: AsyncEngine, ledger: SeededLedger, now: float, raised: float
) -> None:
    async def sleep(_: float) -> None:
        return None

    pace = Pace(engine, limits_of("test", start=20.0, ceiling=40.0), sleep=sleep)
    await pace.turn()
    await pace.slow_down(0, halve=True, age=0)
    await ledger.run("update stripe_pace set rate = :now", now=now)
    await pace._refill()
    await ahead(ledger)
    for _ in range(10):
        pace.succeeded()
    await pace._refill()
    assert await rate(ledger) == pytest.approx(now + raised)


async def test_a_call_that_left_late_puts_off_those_behind_it(
    engine: AsyncEngine, ledger: SeededLedger
) -> None:
    await begin(engine)
    await ahead(ledger)
    assert (await lease(engine, late=30.0)).wait == pytest.approx(630, abs=20)
    await ahead(ledger, by="-1 hour")
    assert (await lease(engine, late=30.0)).wait <= 0  # nobody is right behind it


async def test_the_first_slot_leaves_the_answer_time_to_come(
    engine: AsyncEngine, ledger: SeededLedger
) -> None:
    await begin(engine)
    await ahead(ledger, by="-1 hour")
    assert (await lease(engine, lead=60.0)).wait == pytest.approx(60, abs=20)
    await ahead(ledger)
    assert (await lease(engine, lead=60.0)).wait == pytest.approx(600, abs=20)


async def test_what_stripe_taught_stays_until_the_setting_changes(
    engine: AsyncEngine, ledger: SeededLedger
) -> None:
    await begin(engine)
    await slower(engine, pause=0, halve=True, age=0)
    await begin(engine)
    assert await rate(ledger) == 10.0
    await begin(engine, limits_of("test", start=8.0, ceiling=8.0))
    assert await rate(ledger) == 8.0
    await begin(engine, limits_of("live acct_1", start=50.0, ceiling=50.0))
    rows = await ledger.rows("select account, rate from stripe_pace order by account")
    assert [(row["account"], row["rate"]) for row in rows] == [("live acct_1", 50.0), ("test", 8.0)]


async def test_a_lower_ceiling_holds_at_once(engine: AsyncEngine) -> None:
    await begin(engine)
    assert (await lease(engine, limits=PaceLimits("test", 20.0, 5.0, 1.0))).rate == 5.0


async def test_two_replicas_keep_one_pace(engine: AsyncEngine) -> None:
    replicas = [Pace(engine, FAST) for _ in range(2)]
    began = time.monotonic()
    await asyncio.gather(*(replicas[n % 2].turn() for n in range(31)))
    # 31 turns are thirty spaces; a slow machine makes them longer, and nothing shorter.
    assert time.monotonic() - began >= 30 / (100 * MARGIN)


async def test_turns_come_in_the_order_of_asking_and_a_cancelled_one_holds_up_nobody(
    engine: AsyncEngine,
) -> None:
    pace = Pace(engine, FAST)
    order: list[int] = []

    async def take(number: int) -> None:
        await pace.turn()
        order.append(number)

    tasks = [asyncio.create_task(take(number)) for number in range(12)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    tasks[5].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert order == [n for n in range(12) if n not in (0, 5)]


async def test_of_two_that_are_due_at_once_the_one_that_asked_first_leaves_first() -> None:
    """A process that was paused finds both due: one in its sleep, the other before it."""
    ways = Ways()
    pace = SlowWays(ways, 100.0)
    asleep, awake = asyncio.Event(), asyncio.Event()

    async def sleep(seconds: float) -> None:
        if asleep.is_set():
            ways.now += seconds
        else:
            asleep.set()
            await awake.wait()

    pace._sleep = sleep
    due = ways.now + 0.1
    ways.next_at = due + ways.ahead
    order: list[int] = []

    async def take(number: int) -> None:
        await pace.turn()
        order.append(number)

    first = asyncio.create_task(take(1))
    await asleep.wait()
    ways.now = due + 0.005
    second = asyncio.create_task(take(2))
    for _ in range(5):
        await asyncio.sleep(0)
    assert order == []
    awake.set()
    await asyncio.gather(first, second)
    assert order == [1, 2]


async def test_slots_from_before_a_pause_are_not_used_after_it(engine: AsyncEngine) -> None:
    slept: list[float] = []
    woken, never = asyncio.Event(), asyncio.Event()

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if seconds < 500:
            await woken.wait()
            await asyncio.sleep(seconds)
        else:
            await never.wait()

    pace = Pace(engine, limits_of("test", start=1.0, ceiling=1.0), sleep=sleep)
    await pace.turn()
    turn = asyncio.create_task(pace.turn())
    await _until(lambda: bool(slept))
    await pace.slow_down(600, halve=False, age=0.0)
    woken.set()
    await _until(lambda: slept[-1] > 500)
    assert not turn.done()
    turn.cancel()


async def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.01)


class SlowWays(Pace):
    """A replica whose database is `Ways`."""

    def __init__(self, ways: "Ways", rate: float) -> None:
        super().__init__(
            create_async_engine("postgresql+asyncpg://"),  # never connected
            limits_of("test", start=rate, ceiling=rate),
            monotonic=lambda: ways.now,
            sleep=ways.sleep,
        )
        self.ways = ways

    async def _lease(self, slots: int, late: float, raised: float) -> Lease:
        return self.ways.lease(slots, late, self._lead, self._limits.start)

    async def slots(self, number: int) -> list[float]:
        return [slot for _, slot in await asyncio.gather(*(self._take() for _ in range(number)))]


class Ways:
    """A time that passes only on the ways to a database and back, and in sleeps; what `lease_slots`
    does there, by a clock of its own."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.ahead = 5_000.0
        self.next_at = 0.0
        self.out = self.back = 0.001
        self.leases = 0

    async def sleep(self, seconds: float) -> None:
        self.now += seconds

    def lease(self, slots: int, late: float, lead: float, rate: float) -> Lease:
        self.leases += 1
        self.now += self.out
        at = self.now + self.ahead
        first = max(self.next_at + late, at + lead)
        self.next_at = first + slots / (rate * MARGIN)
        self.now += self.back
        return Lease(rate, first, at)


WAYS = st.sampled_from([0.001, 0.004, 0.02, 0.2, 0.9])


@given(
    steps=st.lists(
        st.tuples(st.integers(0, 2), st.integers(1, 6), WAYS, WAYS), min_size=1, max_size=30
    )
)
@settings(max_examples=60, deadline=None)
def test_slow_answers_bring_no_two_calls_together(
    steps: list[tuple[int, int, float, float]],
) -> None:
    """However slow the ways: of one replica, or of several. (replica, calls, way there, back)"""

    async def run() -> list[float]:
        ways = Ways()
        replicas = [SlowWays(ways, 25.0) for _ in range(3)]
        found = [slot for replica in replicas for slot in await replica.slots(1)]
        for replica, calls, ways.out, ways.back in steps:
            found += await replicas[replica].slots(calls)
        return sorted(found)

    found = asyncio.run(run())
    # A replica knows the database's clock as well as by the quickest way: a millisecond.
    assert all(b - a > 1 / 25 - 0.002 for a, b in pairwise(found))


async def test_a_lease_never_begins_before_the_one_before_it_is_over() -> None:
    """The first answer is a slow one, and nothing tells yet that it is."""
    ways = Ways()
    pace = SlowWays(ways, 25.0)
    ways.back = 0.2
    found = await pace.slots(5)
    ways.back = 0.001
    found += await pace.slots(5)
    assert all(b - a > 1 / 25 for a, b in pairwise(found))


@pytest.mark.parametrize("way", [0.02, 0.3, 0.9, 30.0])
async def test_where_answers_stay_slow_calls_leave_all_the_same(way: float) -> None:
    ways = Ways()
    pace = SlowWays(ways, 25.0)
    await pace.slots(1)
    ways.back, ways.leases = way, 0
    for _ in range(20):
        await pace.slots(1)
        ways.now += 5
    assert ways.leases <= 21


async def test_an_hour_long_answer_does_not_hold_up_the_others() -> None:
    ways = Ways()
    slow, other = SlowWays(ways, 25.0), SlowWays(ways, 25.0)
    await slow.slots(1)
    await other.slots(1)
    ways.back = 3_600.0
    await slow._refill()
    ways.back = 0.001
    await slow.slots(1)
    assert await other.slots(1) < [ways.now + 2]


@pytest.mark.parametrize("seconds", [-100.0, -0.5, 0.5, 100.0])
async def test_a_clock_that_is_set_is_followed_at_once(seconds: float) -> None:
    ways = Ways()
    pace = SlowWays(ways, 25.0)
    await pace.slots(1)
    ways.ahead += seconds
    ways.next_at = 0.0
    [slot] = await pace.slots(1)
    assert ways.leases == 2
    assert slot == pytest.approx(ways.now, abs=0.1)


async def test_where_slots_are_dense_the_next_are_leased_before_the_last_have_passed() -> None:
    """A call every 10 ms never waits for a lease, of which there are a few a second."""
    ways = Ways()
    pace = SlowWays(ways, 100_000.0)
    await pace.turn()
    at_once = []
    for _ in range(100):
        ways.now += 0.01
        at_once.append(pace.turn_now())
        await asyncio.sleep(0)  # in which the lease is had
    await pace.close()
    assert at_once == [True] * 100
    assert 2 <= ways.leases <= 11


async def test_where_slots_are_dense_all_that_wait_go_on_with_one_lease() -> None:
    ways = Ways()
    pace = SlowWays(ways, 100_000.0)
    ways.back = 0.02
    await asyncio.gather(*(pace.turn() for _ in range(200)))
    assert ways.leases == 1
    ways.now += 10
    await asyncio.gather(*(pace.turn() for _ in range(200)))
    assert ways.leases == 2
    await pace.close()


async def test_a_dense_pace_that_holds_back_loses_no_slot() -> None:
    """What is leased ahead takes the place of what is due, and never of what is to come."""
    ways = Ways()
    pace = SlowWays(ways, 200.0)
    began = ways.now
    for _ in range(100):
        if not pace.turn_now():
            await pace.turn()
        await asyncio.sleep(0)
    await pace.close()
    assert ways.now - began < 101 / (200 * MARGIN) + 0.1


async def test_a_row_that_is_gone_is_made_again(engine: AsyncEngine, ledger: SeededLedger) -> None:
    pace = Pace(engine, FAST)
    await pace.turn()
    await ledger.run("truncate stripe_pace")
    await asyncio.wait_for(asyncio.gather(*(pace.turn() for _ in range(60))), 30)
    assert await rate(ledger) == 100.0


async def test_two_workers_share_the_accounts_limit(
    engine: AsyncEngine, ledger: SeededLedger, client: StripeClient, stripe: StripeSide
) -> None:
    """Each for itself, they would be twice as fast, and refused."""
    stripe.control("PATCH", "/settings", {"limit_per_second": 30})
    for number in range(1, 5):
        for second in range(10):
            await ledger.want(number, 1, at=AT + second)

    async def done() -> bool:
        return await ledger.backlog() == 0

    async with (
        sending(engine, client, worker="w1", rate=20, in_flight=1),
        sending(engine, client, worker="w2", rate=20, in_flight=1),
    ):
        await until(done, "all is sent")
    assert stripe.posts() == {"200": 40, "cut": 0}
    assert {attempt["worker"] for attempt in await ledger.attempts()} == {"w1", "w2"}


async def test_a_limiter_slows_down_all_and_all_is_sent(
    engine: AsyncEngine, ledger: SeededLedger, client: StripeClient, stripe: StripeSide
) -> None:
    for number in range(1, 5):
        await ledger.want(number, 5)
    stripe.inject("rate_limited", reason="endpoint-rate", retry_after=0)
    clock = ManualClock(NOW)

    async def done() -> bool:
        return await ledger.backlog() == 0

    async with sending(engine, client, clock=clock) as worker:
        await until(done, "all is sent", clock=clock, step=1, worker=worker)
    [row] = await ledger.rows("select rate, slowed_at from stripe_pace")
    assert 500 <= row["rate"] < 1000
    assert row["slowed_at"] is not None
    assert stripe.posts()["429"] == 1


@pytest.mark.parametrize("reason", ["endpoint-concurrency", "resource-specific"])
async def test_what_is_not_about_the_pace_leaves_the_pace_alone(
    engine: AsyncEngine, ledger: SeededLedger, client: StripeClient, stripe: StripeSide, reason: str
) -> None:
    for number in range(1, 5):
        await ledger.want(number, 5)
    stripe.inject("rate_limited", reason=reason, times=3)
    clock = ManualClock(NOW)

    async def done() -> bool:
        return await ledger.backlog() == 0

    async with sending(engine, client, clock=clock) as worker:
        await until(done, "all is sent", clock=clock, step=1, worker=worker)
        assert (worker._flight.allowed < 8) == (reason == "endpoint-concurrency")
    [row] = await ledger.rows("select rate, slowed_at from stripe_pace")
    assert (row["rate"], row["slowed_at"]) == (1000.0, None)
    assert stripe.posts() == {"200": 4, "429": 3, "cut": 0}
    assert not (await ledger.line())["stopped"]
