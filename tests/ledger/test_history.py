"""Every revision of a window that does not stand is kept, with its delivery; first arrivals and
repetitions cost nothing."""

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from datetime import timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from app.db import transaction
from app.ledger.deliveries import ClaimedDelivery
from app.ledger.history import Revision, Verdict, replay
from app.ledger.incoming import IncomingWindow, WindowKey, group_key
from app.ledger.keeping import keep_windows
from app.ledger.unwritten import WindowAppeared
from app.mapping.resolution import WindowSource
from tests.ledger.test_replicas import waiting_for_locks
from tests.ledger.world import DAY, Replica, World, at, row
from tests.mapping.stripe_side import HOUR, NOW


async def history(world: World) -> list[tuple[Any, ...]]:
    """(value, svix id, verdict) of every revision that does not stand, as they were kept."""
    found = await world.rows("select * from window_revisions order by id")
    return [(int(r["value"]), r["svix_id"], r["verdict"]) for r in found]


async def test_what_comes_once_has_no_history(world: World, replica: Replica) -> None:
    await world.deliver(row(0, 5), row(1, 6))
    await world.deliver(row(2, 7))
    await replica.book()
    assert await history(world) == []


async def test_what_a_newer_one_replaced_is_kept_with_its_delivery(
    world: World, replica: Replica
) -> None:
    first = await world.deliver(row(0, 5))
    await replica.book()
    world.clock.advance(HOUR)
    await world.deliver(row(0, 3))
    await replica.book()
    [found] = await world.rows(
        "select r.*, d.svix_id as delivered from window_revisions r "
        "join deliveries d on d.id = r.delivery_id"
    )
    assert found["usage_window_id"] == (await world.window())["id"]
    assert (found["value"], found["aggregation"], found["source"]) == (5, "SUM", "webhook")
    assert found["svix_id"] == found["delivered"] == first
    assert found["message_at"] == NOW + timedelta(seconds=1)
    assert (found["verdict"], found["kept_at"]) == ("superseded", NOW + HOUR)


async def test_what_came_late_is_kept_and_changes_nothing(world: World, replica: Replica) -> None:
    await world.deliver(row(0, 5), sent=10)
    await replica.book()
    late = await world.deliver(row(0, 3), sent=9)
    await replica.book()
    assert await history(world) == [(3, late, "older")]
    window = await world.window()
    assert (window["value"], window["revision"], window["state"]) == (5, 1, "booked")


@pytest.mark.parametrize("sent", [9, 11])
@pytest.mark.parametrize("together", [True, False])
async def test_the_same_value_again_has_no_history(
    world: World, replica: Replica, sent: int, together: bool
) -> None:
    await world.deliver(row(0, 5), sent=10)
    if not together:
        await replica.book()
    await world.deliver(row(0, "5.0"), sent=sent)
    await replica.book()
    assert await history(world) == []


async def test_another_aggregation_is_another_revision(world: World, replica: Replica) -> None:
    first = await world.deliver(row(0, 5))
    await replica.book()
    await world.deliver(row(0, 5), aggregation="COUNT")
    await replica.book()
    assert await history(world) == [(5, first, "superseded")]
    assert (await world.window())["aggregation"] == "COUNT"


@pytest.mark.parametrize("together", [True, False])
async def test_there_and_back_again_keeps_both_ways(
    world: World, replica: Replica, together: bool
) -> None:
    first = await world.deliver(row(0, 5))
    await replica.book()
    second = await world.deliver(row(0, 9))
    if not together:
        await replica.book()
    third = await world.deliver(row(0, 5))
    await replica.book()
    assert await history(world) == [(5, first, "superseded"), (9, second, "superseded")]
    window = await world.window()
    assert (window["value"], window["svix_id"], window["revision"]) == (5, third, 3)
    assert await world.wanted() == {at(0): 5}


async def test_what_loses_within_one_batch_is_kept(world: World, replica: Replica) -> None:
    first = await world.deliver(row(0, 5), sent=5)
    late = await world.deliver(row(0, 4), sent=4)
    await world.deliver(row(0, 6), sent=6)
    await replica.book()
    assert await history(world) == [(4, late, "older"), (5, first, "superseded")]
    assert (await world.window())["value"] == 6


async def test_what_was_queried_before_the_end_gives_way_to_any_delivery(
    world: World, replica: Replica
) -> None:
    await world.deliver(row(0, 5), sent=10)
    await replica.book()
    await world.run("update usage_windows set source = 'flush', svix_id = 'query-1'")
    await world.deliver(row(0, 7), sent=9)
    await replica.book()
    assert await history(world) == [(5, "query-1", "superseded")]
    assert (await world.window())["source"] == "webhook"
    assert await world.wanted() == {at(0): 7}


async def test_a_delivery_does_not_take_the_place_of_a_whole_periods_value(
    world: World, replica: Replica
) -> None:
    await world.deliver(row(0, 5), sent=9)
    await replica.book()
    await world.run("update usage_windows set source = 'period', svix_id = 'query-1'")
    newer = await world.deliver(row(0, 7), sent=10)
    await replica.book()
    assert await history(world) == [(7, newer, "older")]
    assert (await world.window())["value"] == 5


def revision(number: int, value: int, sent: int) -> Revision:
    return Revision(
        Decimal(value),
        "SUM",
        WindowSource.WEBHOOK,
        number,
        f"msg_{number:03}",
        NOW + timedelta(seconds=sent),
    )


revisions = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 8)), min_size=1, max_size=9).map(
    lambda told: [revision(n, value, sent) for n, (value, sent) in enumerate(told)]
)


@given(arriving=revisions, cuts=st.sets(st.integers(1, 8)))
def test_however_they_are_batched_the_newest_stands_and_the_rest_is_history(
    arriving: list[Revision], cuts: set[int]
) -> None:
    newest = max(arriving, key=lambda r: (r.message_at, r.svix_id))
    bounds = [0, *sorted(cut for cut in cuts if cut < len(arriving)), len(arriving)]
    standing = None
    others: list[tuple[Revision, Verdict]] = []
    for start, end in pairwise(bounds):
        outcome = replay(standing, arriving[start:end])
        standing = outcome.standing
        others += outcome.others
    assert standing == newest
    assert tuple(others) == replay(None, arriving).others
    kept = Counter(other.svix_id for other, _ in others)
    assert set(kept.values()) <= {1}
    assert newest.svix_id not in kept
    told = {r.value for r in arriving}
    assert {other.value for other, _ in others} >= told - {newest.value}
    if len(told) == len(arriving):
        assert set(kept) == {r.svix_id for r in arriving} - {newest.svix_id}


def test_a_window_without_any_revision_is_a_defect() -> None:
    with pytest.raises(ValueError, match="without a revision"):
        replay(None, [])


@settings(
    max_examples=15,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    order=st.permutations(range(7)),
    hours=st.lists(st.integers(0, 1), min_size=7, max_size=7),
    every=st.integers(1, 7),
)
async def test_any_order_over_any_batches_ends_with_the_newest_and_all_others_once(
    world: World, replica: Replica, order: list[int], hours: list[int], every: int
) -> None:
    """Seven revisions of two windows, each of another value, arrive in any order."""
    await world.start_over()
    for number, sent in enumerate(order, start=1):
        await world.deliver(row(hours[sent], 10 + sent), sent=sent, svix_id=f"msg_{sent}")
        if number % every == 0:
            await replica.book()
    await replica.book()
    newest = {hour: sent for sent, hour in enumerate(hours)}
    assert await world.wanted() == {at(hour): 10 + sent for hour, sent in newest.items()}
    assert sorted((value, svix_id) for value, svix_id, _ in await history(world)) == [
        (10 + sent, f"msg_{sent}") for sent in range(7) if sent not in newest.values()
    ]


async def test_replicas_that_revise_one_window_at_once_lose_no_revision(world: World) -> None:
    """Booked one delivery at a time, so that the same window is in many hands."""
    values = [n * 7 % 60 for n in range(60)]
    for number, value in enumerate(values):
        await world.deliver(row(0, value), sent=value, svix_id=f"msg_{number}")
    async with AsyncExitStack() as stack:
        replicas = [await stack.enter_async_context(world.replica()) for _ in range(3)]
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("app.ledger.booker.BYTES_PER_BATCH", 1)  # that is one delivery
            await asyncio.gather(*(replica.book() for replica in replicas))
            await replicas[0].book()
    assert sorted(value for value, _, _ in await history(world)) == list(range(59))
    assert await world.wanted() == {at(0): 59}


@pytest.mark.parametrize("contradicts", [True, False])
async def test_a_window_that_another_replica_is_inserting_is_waited_for_and_compared(
    world: World, contradicts: bool
) -> None:
    """Rows that contradict their query have no series whose lock they would wait for."""
    for _ in range(2):
        await world.deliver(row(0, 1))
    stored = await world.rows("select id, svix_id, body, message_at from deliveries order by id")
    deliveries = [ClaimedDelivery(**found) for found in stored]
    first, second = (
        told(delivery, value, contradicts=contradicts)
        for delivery, value in zip(deliveries, (5, 6), strict=True)
    )

    async def keep_second() -> int:
        while True:
            try:
                async with transaction(world.engine) as other:
                    kept = await keep_windows(other, [second], now=NOW)
                    await kept.unwritten.write(other, now=NOW)
                    return len(kept.pending)
            except WindowAppeared:
                assert contradicts

    async with transaction(world.engine) as connection:
        kept = await keep_windows(connection, [first], now=NOW)
        assert [window.value for window in kept.pending] == [5]
        await kept.unwritten.write(connection, now=NOW)
        waiting = asyncio.create_task(keep_second())
        await waiting_for_locks(world)
    assert await waiting == 1
    assert await history(world) == [(5, deliveries[0].svix_id, "superseded")]
    assert ((await world.window())["value"], (await world.window())["revision"]) == (6, 2)


def told(delivery: ClaimedDelivery, value: int, *, contradicts: bool) -> IncomingWindow:
    key, written = group_key({}, contradicts=contradicts)
    return IncomingWindow(
        WindowKey("tokens", "customer-1", key, DAY, DAY + HOUR),
        (),
        written,
        "SUM",
        Decimal(value),
        contradicts,
        delivery,
    )
