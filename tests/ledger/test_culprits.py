"""A delivery or window that cannot be booked is set aside, and does not stop its neighbours."""

import logging

import pytest
from sqlalchemy import text

from app.errors import StatementTimeout
from app.ledger import booker, recording, resolving, rewriting, waking
from app.ledger import records as store
from app.ledger.new_records import PlaceMoved
from app.ledger.placing import Rewritten, rewrite
from app.ledger.status import StatusRepository
from app.mapping.resolve import resolve
from app.openmeter.report import OtherMessage, UsageReport, parse_message
from tests.ledger.world import Replica, World, at, row

POISON = b'"poison"'


@pytest.fixture
def poisoned_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    """A parser with a defect: it fails on a group of a certain name."""

    def parse(body: bytes) -> UsageReport | OtherMessage:
        if POISON in body:
            raise ZeroDivisionError
        return parse_message(body)

    monkeypatch.setattr(booker, "parse_message", parse)


@pytest.mark.usefixtures("poisoned_parser")
async def test_a_delivery_that_raises_is_set_aside_and_its_neighbours_are_booked(
    world: World, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.deliver(row(0, 1))
    await world.deliver(row(1, 2, groupBy={"poison": "x"}))
    await world.deliver(row(2, 3))
    await replica.book()
    assert await world.deliveries() == {"booked": 2, "failed": 1}
    assert await world.wanted() == {at(0): 1, at(2): 3}
    [failed] = await world.rows("select faults, settled_at from deliveries where state = 'failed'")
    assert failed["faults"] == [{"path": "", "message": "ZeroDivisionError"}]
    assert failed["settled_at"] == world.clock.now()
    monkeypatch.setattr(booker, "parse_message", parse_message)
    assert await StatusRepository(world.engine).release_deliveries() == 1
    await replica.book()
    assert await world.deliveries() == {"booked": 3}
    assert await world.wanted() == {at(0): 1, at(1): 2, at(2): 3}


@pytest.mark.parametrize(
    "body", [b"[]", b"", b"\xff", b'{"type": "report.meter"}', b'{"type": "unheard.of"}']
)
async def test_a_body_that_was_accepted_but_cannot_be_read_is_set_aside(
    world: World, replica: Replica, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    await world.deliver(row(0, 1))
    svix_id = await world.deliver(body=body)
    await world.deliver(row(1, 2))
    with caplog.at_level(logging.ERROR):
        await replica.book()
    assert await world.deliveries() == {"booked": 2, "failed": 1}
    assert await world.wanted() == {at(0): 1, at(1): 2}
    assert [r.getMessage() for r in caplog.records] == [
        f"delivery {svix_id} was accepted but is not a report"
    ]


@pytest.fixture
def poisoned_resolving(monkeypatch: pytest.MonkeyPatch) -> None:
    """Resolving with a defect: it fails on a certain subject."""

    def fail(window, **known):  # type: ignore[no-untyped-def]
        if window.subject == "poison":
            raise KeyError("poison")
        return resolve(window, **known)

    monkeypatch.setattr(resolving, "resolve", fail)


async def test_a_pending_window_that_raises_is_parked_and_its_neighbours_are_booked(
    world: World, replica: Replica, request: pytest.FixtureRequest
) -> None:
    await world.apply("subjects: [{subject: poison, subscription: sub_1}]")
    await world.deliver(*(row(hour, 1) for hour in range(5)))
    await world.deliver(row(2, 7), subject="poison")
    await world.deliver(*(row(hour, 2) for hour in range(5, 10)))
    await replica.booker.book()  # all wait for the subscription
    assert await world.states() == {"pending": 11}
    request.getfixturevalue("poisoned_resolving")
    await replica.read(["sub_1"])
    done = await replica.booker.book()
    assert (done.windows, done.parked) == (11, {"booking_failed": 1})
    assert await world.states() == {"booked": 10, "parked": 1}
    [parked] = await world.rows("select * from usage_windows where state = 'parked'")
    assert (parked["subject"], parked["detail"]) == ("poison", "KeyError")
    assert await world.total() == (15, 15)
    assert (await replica.booker.book()).idle


async def test_after_a_release_a_window_that_was_set_aside_is_booked(
    world: World, replica: Replica, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.apply("subjects: [{subject: poison, subscription: sub_1}]")
    await world.deliver(row(0, 7), subject="poison")
    await replica.booker.book()
    await replica.read(["sub_1"])
    request.getfixturevalue("poisoned_resolving")
    await replica.booker.book()
    assert await world.parked() == {"booking_failed": 1}
    monkeypatch.undo()
    status = StatusRepository(world.engine)
    assert await status.release_windows(reason="booking_failed", ids=[]) == 1
    await replica.book()
    assert await world.wanted() == {at(0): 7}


class Sluggish:
    """A database on which the statements for some subjects take too long, so many times."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *subjects: str, times: int = 1000) -> None:
        self.subjects, self.times = frozenset(subjects), times
        monkeypatch.setattr(booker, "record", self.record)

    async def record(self, connection, targets, standing, **named):  # type: ignore[no-untyped-def]
        """A statement that is cancelled, or booking as ever."""
        met = any(window.facts.subject in self.subjects for window, _ in targets)
        if met and self.times > 0:
            self.times -= 1
            await connection.execute(text("set local statement_timeout = '5ms'"))
            await connection.execute(text("select pg_sleep(5)"))
        return await recording.record(connection, targets, standing, **named)


async def test_what_always_takes_too_long_is_set_aside_and_its_neighbours_are_booked(
    world: World, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.apply("subjects: [{subject: slow, subscription: sub_1}]")
    await replica.read(["sub_1"])
    await world.deliver(row(0, 1))
    await world.deliver(row(1, 7), subject="slow")
    await world.deliver(row(2, 2))
    Sluggish(monkeypatch, "slow")
    await replica.book()
    assert await world.deliveries() == {"booked": 2, "failed": 1}
    [failed] = await world.rows("select faults from deliveries where state = 'failed'")
    assert failed["faults"] == [{"path": "", "message": "StatementTimeout"}]
    assert await world.wanted() == {at(0): 1, at(2): 2}


async def test_a_pending_window_that_always_takes_too_long_is_parked(
    world: World, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.apply("subjects: [{subject: slow, subscription: sub_1}]")
    await world.deliver(*(row(hour, 1) for hour in range(5)))
    await world.deliver(row(2, 7), subject="slow")
    await replica.booker.book()  # all wait for the subscription
    await replica.read(["sub_1"])
    Sluggish(monkeypatch, "slow")
    await replica.booker.book()
    assert await world.states() == {"booked": 5, "parked": 1}
    assert await world.parked() == {"booking_failed": 1}


async def test_what_took_too_long_for_a_moment_is_booked(
    world: World, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.apply("subjects: [{subject: slow, subscription: sub_1}]")
    await replica.read(["sub_1"])
    await world.deliver(row(1, 7), subject="slow")
    await world.deliver(row(2, 2))
    Sluggish(monkeypatch, "slow", times=2)  # in the batch, and by itself
    await replica.book()
    assert await world.deliveries() == {"booked": 2}
    assert await world.wanted() == {at(1): 7, at(2): 2}


async def test_where_everything_takes_too_long_nothing_is_set_aside(
    world: World, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database that is slow for a while must not leave work for an operator."""
    await replica.read(["sub_1"])
    await world.deliver(row(0, 1))
    await world.deliver(row(1, 2))
    sluggish = Sluggish(monkeypatch, "customer-1")
    for _ in range(2):
        with pytest.raises(StatementTimeout):
            await replica.booker.book()
        assert await world.deliveries() == {"received": 2}
    sluggish.times = 0
    await replica.book()
    assert await world.wanted() == {at(0): 1, at(1): 2}


async def test_booking_goes_on_where_waking_takes_too_long(
    world: World, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def slow(*_: object, **__: object) -> int:
        raise StatementTimeout

    monkeypatch.setattr(waking, "release_some", slow)
    await world.deliver(row(0, 1))
    await replica.book()
    assert await world.wanted() == {at(0): 1}


async def test_a_revision_that_raises_leaves_what_is_booked_as_it_was(
    world: World, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.deliver(row(0, 5))
    await replica.book()

    def fail(*_args: object, **_kwargs: object) -> Rewritten:
        raise ArithmeticError

    with monkeypatch.context() as patch:
        patch.setattr(rewriting, "rewrite", fail)
        await world.deliver(row(0, 6))
        await replica.book()
    assert await world.deliveries() == {"booked": 1, "failed": 1}
    window = await world.window()
    assert (window["state"], window["value"]) == ("booked", 5)
    assert await world.total() == (5, 5)
    await StatusRepository(world.engine).release_deliveries()
    await replica.book()
    assert await world.total() == (6, 6)


async def test_a_record_that_moves_again_and_again_is_only_a_repetition(
    world: World, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time another replica has made it, in another period, a moment before."""
    await world.deliver(row(0, 5))
    await replica.booker.book()
    await replica.read(["sub_1"])
    moves = iter([True] * 3)

    def moving(*args, **kwargs):  # type: ignore[no-untyped-def]
        if next(moves, False):
            raise PlaceMoved
        return rewrite(*args, **kwargs)

    monkeypatch.setattr(rewriting, "rewrite", moving)
    await replica.booker.book()
    assert await world.wanted() == {at(0): 5}


async def test_a_batch_that_is_another_one_at_each_look_ends_and_is_named(
    world: World, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not another replica's doing, then: it must not be repeated for ever, and say nothing."""

    def moving(*_args: object, **_kwargs: object) -> Rewritten:
        raise PlaceMoved

    with monkeypatch.context() as patch:
        patch.setattr(rewriting, "rewrite", moving)
        await world.deliver(row(0, 5))
        await replica.booker.book()
        await replica.read(["sub_1"])
        await replica.booker.book()
        window = await world.window()
        assert (window["state"], window["reason"]) == ("parked", "booking_failed")


async def test_a_record_made_meanwhile_in_another_period_takes_the_window(
    world: World,
    replica: Replica,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its place was not there when this batch looked, and is when it locks."""
    await world.deliver(row(0, 5))
    await replica.booker.book()
    await replica.read(["sub_1"])
    look, looks = store.places, iter([True])

    async def too_early(connection, ids, keys):  # type: ignore[no-untyped-def]
        found = await look(connection, ids, keys)
        if next(looks, False):
            await world.run(
                """
                with period as (
                    insert into item_periods (subscription, subscription_item, period_start,
                        period_end, rounding, exact_numerator, exact_denominator,
                        rounded_total)
                    values ('sub_1', 'si_1', '2026-02-01', '2026-03-01', 'half_up', 2, 1, 2)
                    returning id)
                insert into usage_records (item_period_id, subscription, subscription_item,
                    timestamp, wanted_quantity, svix_id, state, due_at, unsent_since)
                select id, 'sub_1', 'si_1', :at, 2, 'msg_0', 'due', now(), now() from period
                """,
                at=at(0),
            )
        return found

    monkeypatch.setattr(store, "places", too_early)
    with caplog.at_level(logging.ERROR):
        await replica.booker.book()
    assert caplog.records == []
    assert await world.wanted() == {at(0): 7}
    [period] = await world.rows("select * from item_periods")
    assert (period["period_start"].month, period["rounded_total"]) == (2, 7)


async def test_a_large_delivery_ends_its_batch(
    world: World, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All at once would take longer than a statement may, and be tried for ever."""
    monkeypatch.setattr(booker, "BYTES_PER_BATCH", 2_000)
    for hour in range(6):
        await world.deliver(*(row(hour, 1, groupBy={"n": str(n)}) for n in range(10)))
    rounds = await replica.book()
    assert [done.deliveries for done in rounds if done.deliveries] == [2, 2, 2]
    assert await world.wanted() == dict.fromkeys(map(at, range(6)), 10)
