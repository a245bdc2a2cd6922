"""Several bookers on one database: nothing twice, nothing lost, nobody waits in a circle."""

import asyncio
from collections import defaultdict
from contextlib import AsyncExitStack

import pytest
from sqlalchemy import text

from app.clock import ManualClock
from app.db import transaction
from app.errors import DatabaseUnavailable
from app.ledger import windows as facts
from app.ledger.incoming import group_key
from app.ledger.rebooking import Rebooker
from tests.ledger.world import Replica, World, at, row

SUBJECTS = ", ".join(f"{{subject: c-{n}, subscription: sub_{n % 5}}}" for n in range(10))
MAPPINGS = f"""
meters: [{{meter: tokens, price: price_1}}]
subjects: [{SUBJECTS}]
"""


async def test_two_bookers_share_one_backlog_exactly(unmapped: World) -> None:
    """Ten subjects on five subscriptions, every window corrected several times, in disorder."""
    await unmapped.apply(MAPPINGS)
    unmapped.stripe.show(*(f"sub_{n}" for n in range(5)))
    expected: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for number in range(150):
        subject, revision = number * 7 % 10, number // 10
        rows = [row(hour, revision * 100 + hour) for hour in range(8)]
        if number % 2:
            rows.reverse()
        await unmapped.deliver(*rows, subject=f"c-{subject}", sent=revision)
        if revision == 14:
            for hour in range(8):
                expected[f"si_{subject % 5}"][at(hour)] += revision * 100 + hour
    async with AsyncExitStack() as stack:
        replicas = [await stack.enter_async_context(unmapped.replica()) for _ in range(3)]
        await asyncio.gather(*(replica.book() for replica in replicas))
        await replicas[0].book()
    assert await unmapped.states() == {"booked": 80}
    assert await unmapped.deliveries() == {"booked": 150}
    assert {item: await unmapped.wanted(item) for item in expected} == expected


@pytest.mark.parametrize("hours", [(0, 0), (0, 1), (0, 5), (5, 0), (5, 5)])
async def test_who_comes_second_sees_what_the_first_has_booked(
    world: World, replica: Replica, hours: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two bookers with windows of one period: totals read too early would lose the first.

    The record of hour 5 is there already, the others are made.
    """
    await world.apply("meters: [{meter: tokens, price: price_1, scale: 1/2}]")
    await world.deliver(row(5, 2))
    await replica.book()
    await world.deliver(row(hours[0], 5, groupBy={"n": "1"}))
    settle, at_the_end, go_on = facts.settle_windows, asyncio.Event(), asyncio.Event()

    async def first_waits(*args, **kwargs):  # type: ignore[no-untyped-def]
        if not at_the_end.is_set():
            at_the_end.set()
            await go_on.wait()
        await settle(*args, **kwargs)

    monkeypatch.setattr(facts, "settle_windows", first_waits)
    first = asyncio.create_task(replica.booker.book())
    await at_the_end.wait()
    await world.deliver(row(hours[1], 6, groupBy={"n": "2"}))
    async with world.replica() as other:
        second = asyncio.create_task(other.booker.book())
        await waiting_for_locks(world)
        go_on.set()
        await asyncio.gather(first, second)
    assert await world.total() == (7, 7)  # 2 + 5 + 6 halves, rounded once
    assert set(await world.wanted()) == {at(hour) for hour in (5, *hours)}


async def waiting_for_locks(world: World, sessions: int = 1) -> None:
    async with asyncio.timeout(5):
        while (
            len(
                await world.rows(
                    "select 1 from pg_stat_activity "
                    "where wait_event_type = 'Lock' and datname = current_database()"
                )
            )
            < sessions
        ):
            await asyncio.sleep(0.01)


async def test_rebooking_and_booking_take_windows_in_one_order(
    world: World, replica: Replica
) -> None:
    """The order of their key is not that in which they were made: two orders would be a circle."""
    groups = [str(n) for n in range(5)]
    groups.sort(key=lambda n: group_key({"n": n}, contradicts=False))
    for n in reversed(groups):
        await world.deliver(row(0, 1, groupBy={"n": n}))
        await replica.book()
    [record] = await world.rows("select id from usage_records")
    [newest] = await world.rows("select max(id) as id from usage_windows")
    oldest = await world.rows("select min(id) as id from usage_windows")
    rebooker = Rebooker(world.engine, ManualClock(world.clock.now()), replica.snapshots)
    for held in (newest["id"], oldest[0]["id"]):
        async with transaction(world.engine) as connection:
            # Whoever comes to this window first waits there, with what it has locked before.
            await connection.execute(
                text("select 1 from usage_windows where id = :id for update"), {"id": held}
            )
            rebooking = asyncio.create_task(
                rebooker.resolve_again(record["id"], "sub_1", "si_1", reason="item_gone")
            )
            await waiting_for_locks(world)
            await world.deliver(*(row(0, held, groupBy={"n": n}) for n in groups))
            booking = asyncio.create_task(replica.booker.book())
            await waiting_for_locks(world, 2)
        outcomes = await asyncio.gather(rebooking, booking, return_exceptions=True)
        assert [o for o in outcomes if isinstance(o, BaseException)] == []
        assert await world.total() == (5 * held, 5 * held)


async def test_a_window_locked_by_another_is_left_to_it(world: World, replica: Replica) -> None:
    await world.deliver(row(0, 1))
    await world.deliver(row(1, 2))
    await replica.booker.book()
    await replica.read(["sub_1"])
    async with transaction(world.engine) as connection:
        mine = await facts.claim_pending(connection, now=world.clock.now(), limit=1)
        assert len(mine) == 1
        done = await replica.booker.book()
        assert done.windows == 1
        assert (await replica.booker.book()).idle
    await replica.book()
    assert await world.states() == {"booked": 2}


async def test_a_database_that_goes_away_in_the_middle_leaves_all_or_nothing(
    world: World, replica: Replica
) -> None:
    await world.deliver(row(0, 5), row(1, 7))
    await replica.booker.book()
    await replica.read(["sub_1"])
    async with transaction(world.engine) as connection:
        await connection.exec_driver_sql("lock table usage_records in access exclusive mode")
        booking = asyncio.create_task(replica.booker.book())
        async with asyncio.timeout(5):
            while not await world.rows(
                "select pg_terminate_backend(pid) from pg_stat_activity "
                "where wait_event_type = 'Lock' and datname = current_database()"
            ):
                await asyncio.sleep(0.01)
        [outcome] = await asyncio.gather(booking, return_exceptions=True)
    assert isinstance(outcome, DatabaseUnavailable)
    assert await world.states() == {"pending": 2}
    assert await world.rows("select id from item_periods") == []
    await replica.book()
    assert await world.wanted() == {at(0): 5, at(1): 7}
