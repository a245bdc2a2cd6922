"""What cannot be booked is parked or waits, and comes back when what it lacked appears."""

import asyncio
from datetime import timedelta

import pytest
from sqlalchemy import text

from app.db import transaction
from app.ledger import booker
from app.ledger import windows as facts
from app.ledger.status import StatusRepository
from app.mapping.reasons import ParkReason
from app.mapping.repository import MAPPING_LOCK
from tests.ledger.world import ONE_CUSTOMER, Replica, World, at, row
from tests.mapping.stripe_side import HOUR, NOW, PERIOD_END, item, snapshot

METER = "meters: [{meter: tokens, price: price_1}]\n"
SUBJECT = "subjects: [{subject: customer-1, subscription: sub_1}]"


@pytest.mark.parametrize(
    ("standing", "lacking", "reason"),
    [
        (METER, SUBJECT, "no_subject_mapping"),
        (SUBJECT, METER, "no_meter_mapping"),
        (
            METER + SUBJECT.replace("sub_1", "sub_1, valid_from: 2026-03-10"),
            SUBJECT,
            "no_subject_mapping",
        ),
        (SUBJECT + "\nmeters: [{meter: tokens, price: price_2}]", METER, "item_not_found"),
    ],
)
async def test_applying_the_mapping_releases_what_waited_for_it(
    unmapped: World, replica: Replica, standing: str, lacking: str, reason: str
) -> None:
    await unmapped.apply(standing)
    await unmapped.deliver(row(0, 5))
    rounds = await replica.book()
    assert await unmapped.parked() == {reason: 1}
    assert [done.parked for done in rounds if done.parked] == [{reason: 1}]
    assert await unmapped.wanted() == {}
    await unmapped.apply(lacking)
    await replica.book()
    assert await unmapped.parked() == {}
    assert await unmapped.wanted() == {at(0): 5}
    window = await unmapped.window()
    assert (window["state"], window["reason"], window["detail"]) == ("booked", None, None)


async def test_other_subjects_stay_parked(unmapped: World, replica: Replica) -> None:
    await unmapped.apply(METER)
    await unmapped.deliver(row(0, 5))
    await unmapped.deliver(row(0, 7), subject="customer-2")
    await replica.book()
    await unmapped.apply(SUBJECT)
    await replica.book()
    assert await unmapped.parked() == {"no_subject_mapping": 1}
    assert await unmapped.wanted() == {at(0): 5}


async def test_a_parked_window_is_revised_before_it_is_booked(
    unmapped: World, replica: Replica
) -> None:
    for value, sent in [(5, 1), (6, 2), (4, 0)]:
        await unmapped.deliver(row(0, value), sent=sent)
        await replica.book()
    assert await unmapped.parked() == {"no_subject_mapping": 1}
    await unmapped.apply(ONE_CUSTOMER)
    await replica.book()
    assert await unmapped.wanted() == {at(0): 6}


async def test_no_window_is_parked_under_a_mapping_that_exists(
    unmapped: World, replica: Replica
) -> None:
    """The race: a replica with a stale cache books while the mapping is applied.

    Whoever is first, the window ends booked: booking that began before the apply parks it and the
    apply, which waits for that transaction, releases it; booking that begins after sees it.
    """
    await unmapped.apply(METER)
    await unmapped.deliver(row(0, 1))
    await replica.book()  # now the absence of customer-1 is cached
    assert await unmapped.parked() == {"no_subject_mapping": 1}
    async with transaction(unmapped.engine) as connection:
        await connection.execute(
            text("select pg_advisory_xact_lock_shared(:key)"), {"key": MAPPING_LOCK}
        )
        applying = asyncio.create_task(unmapped.apply(SUBJECT))
        await waiting_for_the_mapping_lock(unmapped)
        await unmapped.deliver(row(1, 2))
        booking = asyncio.create_task(replica.booker.book())
        await waiting_for_the_mapping_lock(unmapped, sessions=2)
    _, done = await asyncio.gather(applying, booking)
    await replica.read(done.subscriptions)
    await replica.book()
    assert await unmapped.parked() == {}
    assert await unmapped.wanted() == {at(0): 1, at(1): 2}


async def waiting_for_the_mapping_lock(world: World, sessions: int = 1) -> None:
    async with asyncio.timeout(5):
        while True:
            [found] = await world.rows(
                "select count(*) as n from pg_locks l join pg_database d on d.oid = l.database "
                "where locktype = 'advisory' and not granted and datname = current_database()"
            )
            if found["n"] == sessions:
                return
            await asyncio.sleep(0.01)


async def test_a_booking_under_way_holds_the_apply_back(
    unmapped: World, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parked by a transaction that the apply cannot see, the window would wait for ever."""
    await unmapped.apply(METER)
    await unmapped.deliver(row(0, 1))
    resolved, go_on = asyncio.Event(), asyncio.Event()
    settle = facts.settle_windows

    async def slowly(*args: object, **kwargs: object) -> None:
        resolved.set()
        await go_on.wait()
        await settle(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(facts, "settle_windows", slowly)
    booking = asyncio.create_task(replica.booker.book())
    await resolved.wait()
    applying = asyncio.create_task(unmapped.apply(SUBJECT))
    await waiting_for_the_mapping_lock(unmapped)
    go_on.set()
    assert (await booking).parked == {"no_subject_mapping": 1}
    await applying
    await replica.book()
    assert await unmapped.wanted() == {at(0): 1}


async def test_a_change_at_stripe_releases_what_waited_for_it(
    world: World, replica: Replica
) -> None:
    world.stripe.held["sub_1"] = snapshot(item("si_1", price_id="price_9"))
    await world.deliver(row(0, 5))
    await replica.book()
    window = await world.window()
    assert window["reason"] == "item_not_found"
    assert window["retry_at"] == NOW + timedelta(hours=6)
    await replica.snapshots.refresh("sub_1")
    assert await world.rows("select * from window_releases") == []  # Stripe says the same
    world.stripe.show("sub_1")
    await replica.snapshots.refresh("sub_1")
    await replica.book()
    assert await world.wanted() == {at(0): 5}


async def test_a_change_at_stripe_leaves_alone_what_waits_for_something_else(
    world: World, replica: Replica
) -> None:
    await world.apply("subjects: [{subject: customer-2, subscription: sub_2}]")
    await world.deliver(row(0, 5), aggregation="AVG")
    await world.deliver(row(0, 5), subject="customer-2")
    await replica.book()
    assert await world.parked() == {"aggregation_unsupported": 1, "subscription_not_found": 1}
    world.stripe.held["sub_1"] = snapshot(item("si_1"), status="past_due")
    await replica.snapshots.refresh("sub_1")
    assert await world.states() == {"parked": 2}


async def test_parked_windows_are_looked_at_again_when_their_time_has_come(
    world: World, replica: Replica
) -> None:
    world.stripe.held["sub_1"] = snapshot(item("si_1", usage_type="licensed"))
    await world.deliver(row(0, 5))
    await replica.book()

    async def wake() -> int:
        async with transaction(world.engine) as connection:
            return await facts.wake_parked(connection, now=world.clock.now(), limit=10)

    world.clock.advance(timedelta(hours=6) - timedelta(seconds=1))
    assert await wake() == 0
    world.clock.advance(timedelta(seconds=1))
    world.stripe.show("sub_1")
    assert await wake() == 1
    await replica.book()
    assert world.stripe.reads == {"sub_1": 2}
    assert await world.wanted() == {at(0): 5}


async def test_the_next_period_is_awaited_and_booked_by_itself(
    world: World, replica: Replica
) -> None:
    world.clock.set(PERIOD_END + HOUR)
    await world.deliver(
        {
            "value": 5,
            "windowStart": PERIOD_END.isoformat(),
            "windowEnd": (PERIOD_END + HOUR).isoformat(),
        }
    )
    await replica.book()
    window = await world.window()
    assert (window["reason"], window["retry_at"]) == (
        "period_not_open",
        world.clock.now() + timedelta(seconds=15),
    )
    assert world.stripe.reads == {"sub_1": 1}
    world.clock.advance(timedelta(seconds=15))
    following = item("si_1", period_start=PERIOD_END, period_end=PERIOD_END + 30 * 24 * HOUR)
    world.stripe.held["sub_1"] = snapshot(following)
    async with transaction(world.engine) as connection:
        await facts.wake_parked(connection, now=world.clock.now(), limit=10)
    await replica.book()
    assert world.stripe.reads == {"sub_1": 2}
    assert await world.wanted() == {int((PERIOD_END + HOUR).timestamp()) - 1: 5}


async def test_a_window_outside_the_known_period_has_the_subscription_read_once(
    world: World, replica: Replica
) -> None:
    await world.deliver(row(0, 1))
    await replica.book()
    world.clock.advance(timedelta(minutes=40))
    await world.deliver(row(-24 * 30, 5), row(-24 * 31, 5))
    await replica.book()
    assert world.stripe.reads == {"sub_1": 2}
    assert await world.parked() == {"period_closed": 2}


@pytest.mark.parametrize("hours", [-24 * 30, 24 * 30], ids=["closed", "not open"])
async def test_a_slow_stripe_is_not_asked_in_circles(
    world: World, replica: Replica, hours: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read that takes ten minutes is ten minutes old when it arrives, and serves all the same."""
    read = world.stripe.read

    async def slowly(name: str) -> object:
        found = await read(name)
        world.clock.advance(timedelta(minutes=10))
        return found

    monkeypatch.setattr(replica.snapshots, "_read", slowly)
    await world.deliver(row(hours, 5))
    await replica.book()
    assert await world.states() == {"parked": 1}
    assert world.stripe.reads == {"sub_1": 1}


async def test_a_rows_subject_that_contradicts_its_query_waits_for_a_person(
    world: World, replica: Replica
) -> None:
    await world.apply("subjects: [{subject: customer-2, subscription: sub_1}]")
    await world.deliver(row(0, 5, subject="customer-2"))
    await world.deliver(row(0, 7), subject="customer-2")
    await replica.book()
    assert await world.parked() == {"subject_contradicts": 1}
    assert await world.wanted() == {at(0): 7}
    status = StatusRepository(world.engine)
    assert await status.release_windows(reason=ParkReason.SUBJECT_CONTRADICTS, ids=[]) == 1
    await replica.book()
    assert await world.parked() == {}
    assert await world.wanted() == {at(0): 12}


async def test_releasing_by_hand_is_by_reason_or_by_id(world: World, replica: Replica) -> None:
    await world.deliver(row(0, 5), row(1, 5), aggregation="AVG")
    await world.deliver(row(0, 5), subject="nobody")
    await replica.book()
    status = StatusRepository(world.engine)
    ids = [w["id"] for w in await world.rows("select id from usage_windows order by id")]
    assert await status.release_windows(reason="period_closed", ids=[]) == 0
    assert await status.release_windows(reason=None, ids=ids[:1]) == 1
    assert await world.parked() == {"aggregation_unsupported": 1, "no_subject_mapping": 1}
    assert await status.release_windows(reason="no_subject_mapping", ids=[]) == 1
    await replica.book()
    assert await world.parked() == {"aggregation_unsupported": 2, "no_subject_mapping": 1}


async def test_while_stripe_cannot_be_read_windows_wait_and_are_booked_later(
    world: World, replica: Replica
) -> None:
    world.stripe.failure = ConnectionError("down")
    await world.deliver(row(0, 5))
    done = await replica.booker.book()
    assert done.subscriptions == {"sub_1"}
    with pytest.raises(ConnectionError):
        await replica.read(done.subscriptions)
    window = await world.window()
    assert (window["state"], window["reason"]) == ("pending", facts.AWAITING_SNAPSHOT)
    assert (await replica.booker.book()).idle  # its time has not come
    world.stripe.failure = None
    world.clock.advance(timedelta(seconds=31))  # whoever was to read it is gone
    await replica.book()
    assert await world.wanted() == {at(0): 5}
    assert world.stripe.reads == {"sub_1": 2}


async def test_many_parked_windows_are_released_in_batches_each_once(
    unmapped: World, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One statement for all ran into its timeout at 600,000 parked windows, every time."""
    monkeypatch.setattr(booker, "WINDOWS_PER_BATCH", 3)
    await unmapped.apply(METER)
    await unmapped.deliver(*(row(hour, 1) for hour in range(10)))
    await replica.book()
    assert await unmapped.parked() == {"no_subject_mapping": 10}
    await unmapped.apply(SUBJECT)
    await replica.booker.book()
    assert (await unmapped.parked())["no_subject_mapping"] == 7
    assert not (await StatusRepository(unmapped.engine).backlog()).drained
    await replica.book()
    assert await unmapped.parked() == {}
    assert sum((await unmapped.wanted()).values()) == 10
    assert await unmapped.rows("select * from window_releases") == []
    assert (await StatusRepository(unmapped.engine).backlog()).windows == 0


async def test_a_release_that_helps_nothing_ends(unmapped: World, replica: Replica) -> None:
    await unmapped.apply(METER)
    await unmapped.deliver(row(0, 1), row(1, 1))
    await replica.book()
    released = await StatusRepository(unmapped.engine).release_windows(
        reason="no_subject_mapping", ids=()
    )
    assert released == 2
    await replica.book()
    assert await unmapped.parked() == {"no_subject_mapping": 2}
    assert await unmapped.rows("select * from window_releases") == []


@pytest.mark.parametrize("by", ["reason", "ids"])
async def test_a_release_reads_stripe_anew(world: World, replica: Replica, by: str) -> None:
    """Answered from a snapshot of ten minutes ago, it would park for six more hours."""
    world.stripe.held["sub_1"] = snapshot(item("si_1", price_id="price_9"))
    await world.deliver(row(0, 5))
    await replica.book()
    world.clock.advance(timedelta(minutes=10))
    world.stripe.show("sub_1")
    window = await world.window()
    await StatusRepository(world.engine).release_windows(
        reason="item_not_found" if by == "reason" else None,
        ids=[] if by == "reason" else [window["id"]],
    )
    replica.snapshots.forget_all()  # as the notification has it
    await replica.book()
    assert world.stripe.reads == {"sub_1": 2}
    assert await world.wanted() == {at(0): 5}
