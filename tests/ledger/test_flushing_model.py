"""Whatever is used, told, flushed and asked, in whatever order: the bill is what was told.

Windows come late and in any order around a period's end, OpenMeter is away now and then, usage
arrives after its time. When all has been told again, every period together holds exactly that.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.ledger.asked import DAY_LONG, FIRST, LAST, MIDNIGHT, MINUTE, Asked, asked_world
from tests.ledger.world import World
from tests.mapping.stripe_side import HOUR, item, snapshot
from tests.openmeter_side.answers import unavailable

SECOND = timedelta(seconds=1)
NOON = MIDNIGHT + 12 * HOUR


@dataclass(frozen=True)
class Used:
    """So many seconds after noon, known to OpenMeter so many seconds later."""

    second: int
    late: int
    value: int
    group: str


@dataclass(frozen=True)
class Case:
    """A day around a boundary, so many seconds after noon."""

    size: str
    boundary: int
    used: list[Used]
    delays: list[int]  # of each hour's message, in minutes
    rolled: int  # seconds after the boundary
    grace: int
    flushing: bool
    away: list[int]  # minutes after noon in which OpenMeter does not answer


cases = st.builds(
    Case,
    size=st.sampled_from(["HOUR", "HOUR", "DAY"]),
    boundary=st.integers(1800, 3 * 3600),
    used=st.lists(
        st.builds(
            Used,
            second=st.integers(0, 4 * 3600),
            late=st.sampled_from([0, 0, 0, 30, 600, 7200]),
            value=st.integers(1, 40),
            group=st.sampled_from(["a", "b"]),
        ),
        min_size=1,
        max_size=12,
    ),
    delays=st.lists(st.sampled_from([0, 1, 4, 70, 200]), min_size=5, max_size=5),
    rolled=st.sampled_from([2, 65, 4000]),
    grace=st.sampled_from([0, 300]),
    flushing=st.sampled_from([True, True, False]),
    away=st.lists(st.integers(20, 200), max_size=30),
)


@pytest.fixture
async def asked(world: World) -> AsyncIterator[Asked]:
    async with asked_world(world) as made:
        yield made


async def begin(asked: Asked, case: Case) -> None:
    """Start over: noon, and the period's end is near."""
    world = asked.world
    await world.start_over()
    await world.run("truncate subscription_snapshots")
    asked.months.replica.snapshots.forget_all()
    asked.months.grace = timedelta(seconds=case.grace)
    asked.side.start_over()
    asked.side.meter("tokens", group_by=("model",))
    boundary = NOON + timedelta(seconds=case.boundary)
    world.clock.set(NOON + SECOND)
    world.stripe.held["sub_1"] = snapshot(item(period_start=FIRST, period_end=boundary))
    await asked.months.replica.read(["sub_1"])
    asked.use(NOON - MINUTE, 100, group={"model": "a"})
    size = "HOUR" if case.size == "HOUR" else "DAY"
    first = NOON - HOUR if size == "HOUR" else MIDNIGHT - DAY_LONG
    if size == "DAY":
        asked.use(MIDNIGHT - MINUTE, 100, group={"model": "a"})
    await asked.report(
        first, first + (HOUR if size == "HOUR" else DAY_LONG), size, group_by=["model"]
    )
    for used in case.used:
        at = NOON + timedelta(seconds=used.second)
        late = timedelta(seconds=used.late)
        asked.use(at, used.value, group={"model": used.group}, arrived=at + late)


def windows(case: Case) -> list[tuple[timedelta, timedelta]]:
    """The windows that are told after noon: from noon, to noon."""
    if case.size == "DAY":
        return [(-12 * HOUR, 12 * HOUR)]
    return [(n * HOUR, (n + 1) * HOUR) for n in range(5)]


async def run(asked: Asked, case: Case) -> None:
    """Let time pass, minute by minute where something happens."""
    boundary = timedelta(seconds=case.boundary)
    happens = {
        end + delay * MINUTE + SECOND: (start, end)
        for (start, end), delay in zip(windows(case), case.delays, strict=False)
    }
    steps = sorted(
        {*happens, boundary + timedelta(seconds=case.rolled)}
        | {minute * MINUTE for minute in case.away}
        | {(minute + 1) * MINUTE for minute in case.away}
    )
    for step in steps:
        moment = NOON + step
        if case.flushing:
            await asked.flush_until(moment)
        asked.world.clock.set(max(moment, asked.world.clock.now()))
        asked.side.heal()
        if int(step / MINUTE) in case.away:
            asked.side.fail(unavailable())
        if step == boundary + timedelta(seconds=case.rolled):
            await asked.begin(NOON + boundary, LAST)
        if step in happens:
            start, end = happens[step]
            await asked.report(NOON + start, NOON + end, case.size, group_by=["model"])
        await asked.settle()
    asked.side.heal()
    asked.world.clock.set(NOON + 30 * HOUR)
    for start, end in windows(case):
        await asked.report(NOON + start, NOON + end, case.size, group_by=["model"])
    asked.world.clock.advance(HOUR)
    await asked.settle()


# An example takes seconds, and CI's machine may be a slow one.
@pytest.mark.timeout(400)
@settings(
    max_examples=15,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(case=cases)
async def test_all_periods_together_hold_what_was_told(asked: Asked, case: Case) -> None:
    await begin(asked, case)
    await run(asked, case)
    [told] = await asked.world.rows(
        "select sum(value) as value from usage_windows where source = 'webhook'"
    )
    assert await asked.wanted() == told["value"]
    assert {w["value"] for w in await asked.provisional()} <= {0}
    assert await asked.world.parked() == {}
    assert await asked.world.rows("select 1 from usage_windows where state = 'pending'") == []
    states = await asked.world.rows("select distinct state, reason from usage_records")
    assert {(row["state"], row["reason"]) for row in states} <= {
        ("reported", None),
        ("held", "credit_due"),
    }
