"""Several bookers on one database: nothing twice, nothing lost, nobody waits in a circle."""

import asyncio
from collections import defaultdict
from contextlib import AsyncExitStack

from app.clock import ManualClock
from app.db import transaction
from app.errors import DatabaseUnavailable
from app.ledger import windows as facts
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


async def test_the_same_record_is_made_once_by_two_bookers(world: World) -> None:
    async with world.replica() as one, world.replica() as other:
        for number in range(2):
            await world.deliver(row(0, number + 1, groupBy={"n": str(number)}))
        await one.read(["sub_1"])
        first = asyncio.create_task(booked_slowly(world, one))
        second = asyncio.create_task(booked_slowly(world, other))
        await asyncio.gather(first, second)
        await one.book()
    assert await world.wanted() == {at(0): 3}
    assert await world.total() == (3, 3)


async def booked_slowly(world: World, replica: Replica) -> None:
    """Book one delivery at a time, so that both have some."""
    [found] = await world.rows("select min(id) as id from deliveries where state = 'received'")
    if found["id"] is not None:
        await replica.booker._book_delivery(found["id"])


async def test_rebooking_and_booking_take_windows_in_one_order(
    world: World, replica: Replica
) -> None:
    """Windows made in one order and named in the other: each would hold what the other wants."""
    groups = [f"{n:02}" for n in range(40)]
    await world.deliver(*(row(0, 1, groupBy={"n": n}) for n in reversed(groups)))
    await replica.book()
    [record] = await world.rows("select id from usage_records")
    rebooker = Rebooker(world.engine, ManualClock(world.clock.now()), replica.snapshots)
    for turn in range(8):
        await world.deliver(*(row(0, turn + 2, groupBy={"n": n}) for n in groups))
        outcomes = await asyncio.gather(
            replica.booker.book(),
            rebooker.resolve_again(record["id"], "sub_1", "si_1", reason="item_gone"),
            arrived(world),
            return_exceptions=True,
        )
        assert [o for o in outcomes if isinstance(o, BaseException)] == []
    await replica.book()
    assert await world.total() == (9 * 40, 9 * 40)


async def arrived(world: World) -> None:
    async with transaction(world.engine) as connection:
        await facts.snapshot_arrived(connection, "sub_1", retry_at=None)


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
