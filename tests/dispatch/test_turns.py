"""Whose turn it is: all in turn, those whose period ends soon first, and nobody never."""

from datetime import datetime, timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.clock import ManualClock
from app.db import transaction
from app.dispatch import dispatcher, lanes
from app.dispatch.claims import Claims
from app.dispatch.experience import Experience
from app.dispatch.leases import Leases
from app.stripe_client import StripeClient
from tests.dispatch.explaining import ExplainedConnection
from tests.dispatch.ledger import AT, NOW, PERIOD, SeededLedger
from tests.dispatch.stripe_side import StripeSide
from tests.dispatch.workers import sending, until

SOON = NOW + timedelta(minutes=30)
SECOND = timedelta(seconds=1)


async def lane(
    ledger: SeededLedger, name: str, *, due: float = 0.0, period_end: datetime | None = None
) -> None:
    """A lane that has been due for `due` seconds."""
    await ledger.run(
        "insert into subscription_lanes (subscription, due_at, period_end) "
        "values (:name, :due_at, :period_end)",
        name=name,
        due_at=NOW - timedelta(seconds=due),
        period_end=period_end,
    )


async def claim(engine: AsyncEngine, limit: int, urgent: int) -> set[str]:
    async with transaction(engine) as connection:
        found = await lanes.claim_lanes(
            connection, now=NOW, worker="w1", limit=limit, urgent=urgent
        )
    return set(found.leased)


async def test_a_lane_with_more_to_send_goes_behind_those_that_wait(
    engine: AsyncEngine, ledger: SeededLedger
) -> None:
    """A customer with a thousand due records does not delay another's single one."""
    for second in range(20):
        await ledger.want(1, 1, at=AT + second, now=NOW - 2 * SECOND)
    await ledger.want(2, 1, now=NOW - SECOND)
    await ledger.want(3, 1, now=NOW - SECOND)
    order = []
    for turn in range(4):
        now = NOW + turn * SECOND
        async with transaction(engine) as connection:
            found = await lanes.claim_lanes(connection, now=now, worker="w1", limit=1)
            [name] = found.leased
            if name != "sub_1":
                await connection.execute(
                    text(
                        "update usage_records set state = 'reported', due_at = null "
                        "where subscription = :name"
                    ),
                    {"name": name},
                )
            await lanes.release_lanes(connection, [name], now=now)
        order.append(name)
    assert order[0] == order[3] == "sub_1"
    assert set(order[1:3]) == {"sub_2", "sub_3"}


@pytest.mark.parametrize(
    ("period_end", "first"),
    [
        (NOW + timedelta(minutes=59), True),
        (NOW + timedelta(seconds=1), True),
        (NOW - timedelta(minutes=59), True),  # within Stripe's grace
        (NOW + timedelta(hours=2), False),
        (NOW - timedelta(hours=2), False),  # late, whoever goes first
        (None, False),
    ],
)
async def test_what_ends_soon_goes_first(
    engine: AsyncEngine, ledger: SeededLedger, period_end: datetime | None, first: bool
) -> None:
    await lane(ledger, "longest", due=60)
    await lane(ledger, "ends", due=1, period_end=period_end)
    assert await claim(engine, 1, 1) == ({"ends"} if first else {"longest"})
    assert await claim(engine, 1, 1) == ({"longest"} if first else {"ends"})


async def test_of_those_that_end_soon_the_soonest_goes_first(
    engine: AsyncEngine, ledger: SeededLedger
) -> None:
    for minutes in (30, 5, 50, 1, 40):
        end = NOW + timedelta(minutes=minutes)
        await lane(ledger, f"in {minutes}", due=minutes, period_end=end)
    assert await claim(engine, 2, 2) == {"in 1", "in 5"}


async def test_neither_kind_takes_all_of_a_claim(engine: AsyncEngine, ledger: SeededLedger) -> None:
    for number in range(8):
        await lane(ledger, f"urgent {number}", due=number, period_end=SOON)
        await lane(ledger, f"other {number}", due=100 + number)
    claimed = await claim(engine, 4, 3)
    assert sum(name.startswith("urgent") for name in claimed) == 3
    assert "other 7" in claimed  # the one that waited longest
    assert len(await claim(engine, 100, 75)) == 12  # what is there, each once


async def test_claims_of_one_lane_take_turns_too(engine: AsyncEngine, ledger: SeededLedger) -> None:
    for number in range(1, 9):
        await ledger.want(number, 1)
    await ledger.run(
        "update subscription_lanes set period_end = :soon where subscription > 'sub_4'", soon=SOON
    )
    clock = ManualClock(NOW)
    claiming = Claims(engine, clock, Leases(engine, clock), Experience(), worker="w1")
    names = []
    for _ in range(8):
        found = await claiming.claim(1)
        assert found is not None
        names += [entry.subscription for entry in found]
    assert [name > "sub_4" for name in names[:4]].count(True) == 3
    assert sorted(names) == [f"sub_{number}" for number in range(1, 9)]


async def test_a_release_notes_the_period_of_what_is_next(
    engine: AsyncEngine, ledger: SeededLedger
) -> None:
    await ledger.want(1, 1)
    async with transaction(engine) as connection:
        await lanes.release_lanes(connection, ["sub_1"], now=NOW)
    [row] = await ledger.rows("select due_at, period_end from subscription_lanes")
    assert (row["due_at"], row["period_end"]) == (NOW, PERIOD[1])
    await ledger.run("update usage_records set state = 'reported', due_at = null")
    async with transaction(engine) as connection:
        assert await lanes.release_lanes(connection, ["sub_1"], now=NOW) is None
    [row] = await ledger.rows("select due_at, period_end from subscription_lanes")
    assert (row["due_at"], row["period_end"]) == (None, PERIOD[1])


async def test_a_dead_workers_lane_is_looked_for_when_its_lease_ends(
    engine: AsyncEngine,
    ledger: SeededLedger,
    client: StripeClient,
    stripe: StripeSide,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing else wakes the one that takes it up: the slow poll comes too late for this test."""
    monkeypatch.setattr(dispatcher, "IDLE_POLL", 600.0)
    await ledger.want(1, 5)
    await ledger.run(
        "update subscription_lanes set lease_token = gen_random_uuid(), leased_by = 'dead', "
        "leased_until = clock_timestamp() + interval '1 s'"
    )

    async def done() -> bool:
        return await ledger.backlog() == 0

    async with sending(engine, client):
        await until(done, "it is taken up")
    assert stripe.quantities() == [5]
    assert lanes.LEASE < 5


async def test_when_to_look_next(engine: AsyncEngine, ledger: SeededLedger) -> None:
    async def seconds() -> float | None:
        async with transaction(engine) as connection:
            found = await lanes.claim_lanes(connection, now=NOW, worker="w1", limit=8)
            await connection.rollback()
        return found.next_look

    assert await seconds() is None
    await lane(ledger, "later", due=-30)
    assert await seconds() == 30
    await lane(ledger, "locked", due=1)
    async with transaction(engine) as other:
        await other.execute(
            text("select from subscription_lanes where due_at <= :now for update"), {"now": NOW}
        )
        assert await seconds() == lanes.LOCKED_PATIENCE
    await ledger.run(
        "update subscription_lanes set leased_until = clock_timestamp() + interval '20 s' "
        "where subscription = 'locked'"
    )
    found = await seconds()
    assert found is not None
    assert 0 < found <= 20


BACKLOG = 25_000


@pytest.fixture
def clock() -> ManualClock:
    """One that stands still."""
    return ManualClock(NOW)


@pytest.fixture
async def backlog(ledger: SeededLedger) -> None:
    """Many due lanes and, in each and in one of them, due records."""
    await ledger.want(1, 1)
    await ledger.run(
        """
        insert into subscription_lanes (subscription, due_at, period_end)
        select 'sub_many_' || n, cast(:now as timestamptz) - make_interval(secs => n),
               case when n % 100 = 0
                    then cast(:now as timestamptz) + make_interval(secs => n) end
        from generate_series(1, :backlog) as n
        """,
        now=NOW,
        backlog=BACKLOG,
    )
    await ledger.run(
        """
        insert into usage_records (item_period_id, subscription, subscription_item, timestamp,
                                   wanted_quantity, svix_id, state, due_at)
        select p.id, 'sub_' || lane, 'si_' || lane, n, 1, 'msg', 'due', :now
        from generate_series(1, :backlog) as n,
             lateral (values ('1'), ('many_' || n)) as l (lane), item_periods p
        """,
        now=NOW,
        backlog=BACKLOG,
    )
    await ledger.run("analyze subscription_lanes, usage_records, item_periods")


async def test_no_step_of_sending_reads_the_backlog(
    engine: AsyncEngine, backlog: None, clock: ManualClock
) -> None:
    """Explains the very statements that run: of a backlog of 25,000 due lanes and 50,000 due
    records each reads what it takes, and what it has to pass over."""
    most = 1_500
    leases = Leases(engine, clock)
    for _ in range(3):  # also behind lanes that are leased
        async with transaction(engine) as connection:
            explained = ExplainedConnection(connection)
            claiming = Claims(engine, clock, leases, Experience(), worker="w1")
            found = await claiming._claim_lanes(explained.as_connection, NOW, 64) or []
            held = {entry.token: entry.subscription for entry in found}
            await lanes.renew(explained.as_connection, held)
            await lanes.lock_leased(explained.as_connection, found)
        assert len(found) == 64
        assert explained.sequential <= {"item_periods"}  # which has one row
        assert max(explained.read.values()) <= most, explained.read
    async with transaction(engine) as connection:  # at each look while the line is stopped
        await connection.execute(
            text("update stripe_line set stopped = true, reason = 'stripe_down', since = now()")
        )
        explained = ExplainedConnection(connection)
        claim = await lanes.claim_lanes(
            explained.as_connection, now=NOW, worker="w1", limit=64, urgent=48
        )
        assert (claim.stopped, claim.leased, claim.next_look) == (True, {}, None)
        assert max(explained.read.values()) <= most, explained.read
        await connection.rollback()
    async with transaction(engine) as connection:
        explained = ExplainedConnection(connection)
        await lanes.release_lanes(
            explained.as_connection, [entry.subscription for entry in found], now=NOW
        )
        await lanes.release_lanes(explained.as_connection, ["sub_1"], now=NOW)
    assert explained.sequential <= {"item_periods"}  # which has one row
    assert max(explained.read.values()) <= most, explained.read
