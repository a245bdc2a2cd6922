"""Windows of one series that share time are billed once, whoever comes first, whatever is released
and however many replicas book."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from app.db import transaction
from app.ledger import overlaps
from app.ledger import windows as facts
from app.ledger.columns import column, moments, numbers, texts
from app.ledger.incoming import group_key
from app.ledger.overlaps import overlaps_within
from app.ledger.series import SeriesKey, SeriesWindow, lock_series
from app.ledger.status import StatusRepository
from app.ledger.windows import PendingWindow
from app.mapping.resolution import WindowFacts
from tests.ledger.test_replicas import waiting_for_locks
from tests.ledger.world import DAY, ONE_CUSTOMER, Replica, World, at, row
from tests.mapping.stripe_side import HOUR


def span(start: float, end: float, value: object, **members: Any) -> dict[str, Any]:
    """A window from one hour of DAY to another."""
    bounds = {
        "windowStart": (DAY + start * HOUR).isoformat(),
        "windowEnd": (DAY + end * HOUR).isoformat(),
    }
    return row(0, value, **bounds, **members)


async def states(world: World) -> dict[tuple[float, float], str]:
    """The state, or the reason of the parked, of each window by its hours."""
    found = await world.rows("select * from usage_windows order by window_start, window_end")
    return {
        ((r["window_start"] - DAY) / HOUR, (r["window_end"] - DAY) / HOUR): (
            r["reason"] if r["state"] == "parked" else r["state"]
        )
        for r in found
    }


async def newest(world: World) -> tuple[float, float]:
    """The hours of the newest window of the only series."""
    [found] = await world.rows("select * from usage_series")
    return (found["newest_start"] - DAY) / HOUR, (found["newest_end"] - DAY) / HOUR


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((0, 1), (0, 24)),  # a day around an hour
        ((0, 24), (0, 1)),  # an hour at a day's start,
        ((0, 24), (23, 24)),  # at its end
        ((0, 24), (5, 6)),  # and inside
        ((0, 2), (1, 3)),
        ((1, 3), (0, 2)),
        ((0, 2), (1.9999, 3)),
    ],
)
@pytest.mark.parametrize("together", [True, False])
async def test_of_two_windows_that_share_time_one_is_billed(
    world: World,
    replica: Replica,
    first: tuple[float, float],
    second: tuple[float, float],
    together: bool,
) -> None:
    svix_id = await world.deliver(span(*first, 5))
    if not together:
        await replica.book()
    await world.deliver(span(*second, 6))
    await replica.book()
    found = await states(world)
    assert sorted(found.values()) == ["booked", "overlaps_window"]
    if not together:
        assert found[second] == "overlaps_window"
        [parked] = await world.rows("select * from usage_windows where state = 'parked'")
        [booked] = await world.rows("select * from usage_windows where state = 'booked'")
        bounds = f"{booked['window_start'].isoformat()} to {booked['window_end'].isoformat()}"
        assert parked["detail"] == f"overlaps window {booked['id']} of {svix_id} ({bounds})"
        assert (parked["retry_at"], parked["usage_record_id"]) == (None, None)
        assert sum((await world.wanted()).values()) == 5


@pytest.mark.parametrize(
    "others",
    [
        [span(1, 2, 6)],  # half-open: they touch
        [span(-1, 0, 6)],
        [span(0, 24, 6, groupBy={"model": "a"})],
    ],
)
async def test_windows_that_share_no_time_or_no_series_are_all_billed(
    world: World, replica: Replica, others: list[dict[str, Any]]
) -> None:
    await world.deliver(row(0, 5), *others)
    await replica.book()
    assert await world.states() == {"booked": 2}
    assert sum((await world.wanted()).values()) == 11


async def test_another_subject_or_meter_is_another_series(world: World, replica: Replica) -> None:
    await world.apply(
        """
        meters: [{meter: calls, price: price_1}]
        subjects: [{subject: customer-2, subscription: sub_1}]
        """
    )
    await world.deliver(row(0, 5))
    await world.deliver(span(0, 24, 6), subject="customer-2")
    await world.deliver(span(0, 24, 7), meter="calls")
    await replica.book()
    assert await world.states() == {"booked": 3}


async def test_a_long_window_is_found_behind_many_short_ones(
    world: World, replica: Replica
) -> None:
    """The one just before begins later and ends earlier: it does not tell."""
    await world.deliver(span(0, 24, 1))
    await replica.book()
    await world.deliver(*(row(hour, 1) for hour in range(20)))
    await world.deliver(*(span(hour, hour + 3, 1) for hour in range(-30, -3, 3)))
    await replica.book()
    await world.deliver(span(22, 23, 1))
    await replica.book()
    found = await states(world)
    assert found[22, 23] == "overlaps_window"
    assert list(found.values()).count("overlaps_window") == 21
    assert list(found.values()).count("booked") == 10


async def test_what_stands_on_a_record_is_revised_and_never_parked(
    world: World, replica: Replica
) -> None:
    await world.deliver(row(0, 5))
    await replica.book()
    await world.deliver(span(0, 24, 100))
    await replica.book()
    await world.deliver(row(0, 7), span(0, 24, 110))
    await replica.book()
    assert await states(world) == {(0, 1): "booked", (0, 24): "overlaps_window"}
    assert await world.wanted() == {at(0): 7}


async def test_it_is_booked_when_it_is_released_after_the_other_one_is_gone(
    world: World, replica: Replica
) -> None:
    await world.deliver(row(0, 0))
    await replica.book()
    await world.deliver(span(0, 24, 100))
    await replica.book()
    status = StatusRepository(world.engine)
    await status.release_windows(reason="overlaps_window", ids=[])
    await replica.book()
    assert await states(world) == {(0, 1): "booked", (0, 24): "overlaps_window"}
    assert await newest(world) == (0, 1)
    await world.run("delete from usage_windows where state = 'booked'")
    await status.release_windows(reason="overlaps_window", ids=[])
    await replica.book()
    assert await states(world) == {(0, 24): "booked"}
    assert await newest(world) == (0, 24)


async def test_of_parked_windows_that_are_released_together_one_is_billed(
    world: World, replica: Replica
) -> None:
    await world.deliver(span(0, 24, 1))
    await replica.book()
    await world.deliver(span(1, 3, 2))
    await world.deliver(span(2, 4, 3))
    await world.deliver(span(3, 5, 4))
    await replica.book()
    await world.run("delete from usage_windows where state = 'booked'")
    await StatusRepository(world.engine).release_windows(reason="overlaps_window", ids=[])
    await replica.book()
    assert await states(world) == {(1, 3): "booked", (2, 4): "overlaps_window", (3, 5): "booked"}


async def test_of_released_windows_in_different_hands_the_smaller_id_is_billed(
    world: World, replica: Replica
) -> None:
    """The other one is pending, too, but was not looked at: it must not keep the first away."""
    await world.deliver(span(0, 24, 1))
    await replica.book()
    await world.deliver(span(1, 3, 2), span(2, 4, 3))
    await replica.book()
    await world.run("delete from usage_windows where state = 'booked'")
    await world.run("update usage_windows set state = 'pending', reason = null")
    async with transaction(world.engine) as connection:
        await connection.execute(
            text("select 1 from usage_windows where window_end = :end for update"),
            {"end": DAY + 4 * HOUR},
        )
        await replica.book()
    assert await states(world) == {(1, 3): "booked", (2, 4): "pending"}
    await replica.book()
    assert await states(world) == {(1, 3): "booked", (2, 4): "overlaps_window"}


async def test_a_window_that_waits_for_its_mapping_counts_all_the_same(
    unmapped: World, replica: Replica
) -> None:
    await unmapped.deliver(row(0, 5))
    await replica.book()
    await unmapped.deliver(span(0, 24, 100))
    await replica.book()
    assert await states(unmapped) == {(0, 1): "no_subject_mapping", (0, 24): "overlaps_window"}


async def test_what_waited_since_before_the_pruning_is_billed_and_what_came_after_it_is_not(
    unmapped: World, replica: Replica
) -> None:
    status = StatusRepository(unmapped.engine)
    await unmapped.deliver(row(0, 5), span(2, 4, 6))
    await unmapped.deliver(span(3, 5, 7))
    await replica.book()
    await unmapped.run("update usage_series set pruned_until = :until", until=DAY + 9 * HOUR)
    await unmapped.deliver(row(5, 8), row(2, 9), row(0, 4))  # the last one revises
    await replica.book()
    waiting = {(0, 1): "no_subject_mapping", (2, 4): "no_subject_mapping"}
    refused = dict.fromkeys([(2, 3), (5, 6)], "older_than_retention")
    assert await states(unmapped) == waiting | refused | {(3, 5): "overlaps_window"}
    # However they are released, and whatever they meet first.
    for _ in range(2):
        for reason in ("no_subject_mapping", "overlaps_window", "older_than_retention"):
            await status.release_windows(reason=reason, ids=[])
        await replica.book()
        refused[3, 5] = "older_than_retention"
        assert await states(unmapped) == waiting | refused
    await unmapped.apply(ONE_CUSTOMER)
    await replica.book()
    assert await states(unmapped) == dict.fromkeys(waiting, "booked") | refused
    assert sum((await unmapped.wanted()).values()) == 4 + 6


async def test_a_release_that_fails_does_not_make_a_refused_window_an_accepted_one(
    world: World, replica: Replica
) -> None:
    await world.deliver(row(0, 0))
    await replica.book()
    await world.run("update usage_series set pruned_until = :until", until=DAY + 9 * HOUR)
    await world.deliver(row(5, 8))
    await replica.book()
    refused = {(0, 1): "booked", (5, 6): "older_than_retention"}
    assert await states(world) == refused
    await world.run("update usage_windows set reason = 'booking_failed' where value = 8")
    for reason in ("booking_failed", "older_than_retention"):
        await StatusRepository(world.engine).release_windows(reason=reason, ids=[])
        await replica.book()
        assert await states(world) == refused
    await world.deliver(row(5, 9))
    await replica.book()
    assert await states(world) == refused


@pytest.mark.parametrize("source", ["part", "flush", "period"])
async def test_what_openmeter_was_asked_for_does_not_count(
    world: World, replica: Replica, source: str
) -> None:
    await world.deliver(row(0, 0))
    await replica.book()
    await world.run(
        "update usage_windows set source = :source, "
        "part_of = case when :source = 'part' then id end",
        source=source,
    )
    await world.deliver(span(0, 24, 100))
    await replica.book()
    assert (await states(world))[0, 24] == "booked"


async def test_rows_that_contradict_their_query_count_when_they_are_vouched_for(
    world: World, replica: Replica
) -> None:
    await world.apply("subjects: [{subject: customer-2, subscription: sub_1}]")
    contradicting = {"subject": "customer-2"}
    await world.deliver(row(0, 5, **contradicting))
    await world.deliver(span(0, 24, 100, **contradicting))
    await world.deliver(row(0, 7))
    await replica.book()
    assert await world.parked() == {"subject_contradicts": 2}
    series = await world.rows("select subject from usage_series")
    assert series == [{"subject": "customer-1"}]
    status = StatusRepository(world.engine)
    day, hour = await world.rows(
        "select id from usage_windows where subject = 'customer-2' order by window_end desc"
    )
    await status.release_windows(reason=None, ids=[day["id"]])
    await replica.book()
    assert await world.parked() == {"subject_contradicts": 1}
    await status.release_windows(reason=None, ids=[hour["id"]])
    await replica.book()
    assert await world.parked() == {"overlaps_window": 1}
    assert sum((await world.wanted()).values()) == 107


async def test_the_newest_window_of_a_series_is_one_that_counts(
    world: World, replica: Replica
) -> None:
    await world.deliver(row(0, 5), row(1, 6), aggregation="COUNT")
    await replica.book()
    await world.deliver(span(0, 24, 100))
    await replica.book()
    assert await newest(world) == (1, 2)
    await world.deliver(row(3, 5), row(2, 6))
    await replica.book()
    assert await newest(world) == (3, 4)
    await world.deliver(row(0, 9))
    await replica.book()
    assert await newest(world) == (3, 4)
    [series] = await world.rows("select * from usage_series")
    assert (series["aggregation"], series["group_by"]) == ("SUM", {})
    assert series["longest"] == 24 * HOUR


async def test_windows_from_before_there_were_series_are_found(
    world: World, replica: Replica
) -> None:
    await world.deliver(span(0, 24, 100))
    await replica.book()
    await world.run("truncate usage_series")
    await world.deliver(row(20, 5))
    await replica.book()
    assert await states(world) == {(0, 24): "booked", (20, 21): "overlaps_window"}


async def test_whoever_holds_windows_does_not_wait_for_their_series(
    world: World, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One replica has claimed the released window and wants its series; another one has locked
    the series for a delivery and wants the window: a circle, if both waited."""
    await world.deliver(span(0, 24, 100))
    await replica.book()
    await world.deliver(row(0, 5), row(1, 6))
    await replica.book()
    await world.run("delete from usage_windows where state = 'booked'")
    status = StatusRepository(world.engine)
    claim, claimed, go_on = facts.claim_pending, asyncio.Event(), asyncio.Event()

    async def first_waits(*args: Any, **kwargs: Any) -> list[PendingWindow]:
        found = await claim(*args, **kwargs)
        if not claimed.is_set():
            assert len(found) == 1
            claimed.set()
            await go_on.wait()
        return found

    [hour] = await world.rows("select min(id) as id from usage_windows")
    await status.release_windows(reason=None, ids=[hour["id"]])
    monkeypatch.setattr(facts, "claim_pending", first_waits)
    first = asyncio.create_task(replica.booker.book())
    await claimed.wait()
    await world.deliver(row(0, 7))
    async with world.replica() as other:
        second = asyncio.create_task(other.booker.book())
        await waiting_for_locks(world)
        go_on.set()
        done = await asyncio.gather(first, second)
        assert [r.windows for r in done] == [0, 1]  # the claimed window is left to the other
        await other.read(done[1].subscriptions)  # a release has Stripe read anew
        await other.book()
    assert await states(world) == {(0, 1): "booked", (1, 2): "overlaps_window"}
    # The records' other window was deleted under it above.
    assert (await world.wanted())[at(0)] == 7


async def test_a_replica_that_is_accepting_an_overlapping_window_is_not_overlooked(
    world: World, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A released hour beside a day that another replica is about to commit: one is billed."""
    await world.deliver(span(0, 2, 1))
    await replica.book()
    await world.deliver(row(0, 5))
    await replica.book()
    await world.run("delete from usage_windows where state = 'booked'")
    settle, at_the_end, go_on = facts.settle_windows, asyncio.Event(), asyncio.Event()

    async def first_waits(*args: Any, **kwargs: Any) -> None:
        if not at_the_end.is_set():
            at_the_end.set()
            await go_on.wait()
        await settle(*args, **kwargs)

    monkeypatch.setattr(facts, "settle_windows", first_waits)
    await world.deliver(span(0, 24, 100))
    first = asyncio.create_task(replica.booker.book())
    await at_the_end.wait()
    await StatusRepository(world.engine).release_windows(reason="overlaps_window", ids=[])
    async with world.replica() as other:
        assert (await other.booker.book()).windows == 0  # its series is taken: left, not waited for
        go_on.set()
        await first
        await other.book()
    assert await states(world) == {(0, 1): "overlaps_window", (0, 24): "booked"}


async def test_replicas_that_revise_and_release_in_any_order_never_wait_in_a_circle(
    world: World,
) -> None:
    """Hours and days of six series, released over and over while they are revised."""
    groups = [{"n": str(n)} for n in range(6)]
    status = StatusRepository(world.engine)
    async with AsyncExitStack() as stack:
        replicas = [await stack.enter_async_context(world.replica()) for _ in range(3)]
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("app.ledger.booker.BYTES_PER_BATCH", 1)
            for turn in range(8):
                turned = groups[turn % 6 :] + groups[: turn % 6]
                for start, end in [(0, 1), (0, 24), (1, 2)]:
                    await world.deliver(*(span(start, end, turn, groupBy=g) for g in turned))
                    turned.reverse()
                await status.release_windows(reason="overlaps_window", ids=[])
                await asyncio.gather(*(replica.book() for replica in replicas))
        await replicas[0].book()
    assert await world.states() == {"booked": 12, "parked": 6}
    assert await world.wanted() == {at(0): 6 * 7, at(1): 6 * 7}


async def test_a_window_is_compared_with_few_others_of_a_hundred_thousand(world: World) -> None:
    await world.deliver(row(0, 1))
    key, written = group_key({}, contradicts=False)
    await world.run(
        """
        insert into usage_windows (meter, subject, group_key, window_start, window_end, group_by,
            aggregation, value, svix_id, message_at, state, delivery_id)
        select 'tokens', 'customer-' || n % 10, :key, at, at + interval '1 hour', '{}', 'SUM', 1,
               'msg', at, 'booked', (select id from deliveries)
        from generate_series(1, 100000) as n,
             lateral (select cast(:day as timestamptz) - n / 10 * interval '1 hour' as at) t
        """,
        key=key,
        day=DAY,
    )
    await world.run("analyze usage_windows")
    series = SeriesWindow(
        SeriesKey("tokens", "customer-1", key), written, "SUM", DAY - HOUR, DAY + HOUR
    )
    spans = [(DAY - HOUR, DAY + HOUR), *((DAY + n * HOUR, DAY + (n + 1) * HOUR) for n in range(50))]
    async with transaction(world.engine) as connection:
        await lock_series(connection, [series])
        parameters = {
            "id": numbers(-n for n in range(len(spans))),
            "subject": texts(["customer-1"] * len(spans)),
            "starts": moments(start for start, _ in spans),
            "ends": moments(end for _, end in spans),
            **column("meter", ["tokens"] * len(spans)),
            **column("group_key", [key] * len(spans)),
            **column("accepted", [False] * len(spans)),
        }
        explained = text(f"explain (analyze, format json) {overlaps._FIND.text}")
        plan = (await connection.execute(explained, parameters)).scalar_one()
    scans = [node for node in nodes(plan) if node.get("Relation Name") == "usage_windows"]
    assert {scan["Node Type"] for scan in scans} <= {"Index Scan", "Index Only Scan"}
    [scan] = [scan for scan in scans if scan["Index Name"].startswith("uq_usage_windows_meter")]
    assert scan["Actual Loops"] == len(spans)
    looked_at = scan["Actual Rows"] + scan.get("Rows Removed by Filter", 0)
    assert looked_at <= 30  # of the day before, as the series is older than its row


def nodes(plan: Any) -> Any:
    """All nodes of a plan."""
    for entry in plan:
        node = entry.get("Plan", entry)
        yield node
        yield from nodes(node.get("Plans", []))


WAITING = PendingWindow(
    id=1,
    facts=WindowFacts("tokens", "customer-1", "SUM", DAY, DAY + HOUR),
    group_key=b"",
    value=Decimal(1),
    revision=1,
    svix_id="msg",
    message_at=DAY,
    usage_record_id=None,
    amount=Fraction(0),
)
bounds = st.tuples(st.integers(0, 12), st.integers(1, 6)).map(lambda b: (b[0], b[0] + b[1]))


@given(told=st.lists(bounds, min_size=1, max_size=12, unique=True), data=st.data())
def test_of_windows_that_wait_together_the_smaller_id_is_accepted(
    told: list[tuple[int, int]], data: st.DataObject
) -> None:
    windows = [
        WAITING._replace(
            id=number,
            facts=replace(
                WAITING.facts, window_start=DAY + start * HOUR, window_end=DAY + end * HOUR
            ),
        )
        for number, (start, end) in enumerate(told)
    ]
    accepted: list[int] = []
    expected: dict[int, set[int]] = {}
    for number, (start, end) in enumerate(told):
        sharing = {n for n in accepted if told[n][0] < end and told[n][1] > start}
        if sharing:
            expected[number] = sharing
        else:
            accepted.append(number)
    found = overlaps_within(data.draw(st.permutations(windows)))
    assert set(found) == set(expected)
    assert all(other.id in expected[number] for number, other in found.items())
