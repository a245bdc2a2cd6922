"""Leases and claims on the real database: one worker per lane, and the same POST after a crash."""

import asyncio
from datetime import datetime, timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db import transaction
from app.dispatch import claiming, lanes
from app.dispatch.keys import idempotency_key
from app.dispatch.lanes import Lane
from app.dispatch.records import ClaimedRecord
from tests.dispatch.ledger import AT, NOW, SeededLedger


async def claim(
    engine: AsyncEngine,
    *,
    worker: str = "w1",
    limit: int = 8,
    per_lane: int = 5,
    now: datetime = NOW,
) -> list[Lane]:
    """Lease what is due, as a dispatcher does; also while the line is stopped."""
    async with transaction(engine) as connection:
        found = await lanes.claim_lanes(connection, now=now, worker=worker, limit=limit, probe=True)
        tokens = found.leased
        claimed = await claiming.claim_records(connection, tokens, now=now, per_lane=per_lane)
    return [
        Lane(name, token, tuple(r for r in claimed if r.subscription == name))
        for name, token in tokens.items()
    ]


async def release(engine: AsyncEngine, held: list[Lane]) -> None:
    async with transaction(engine) as connection:
        await lanes.release_lanes(connection, [lane.subscription for lane in held])


def one(claimed: list[Lane]) -> ClaimedRecord:
    """The one record of the one lane."""
    [lane] = claimed
    [record] = lane.records
    return record


async def test_workers_that_claim_at_once_never_share_a_lane(
    engine: AsyncEngine, ledger: SeededLedger
) -> None:
    for number in range(12):
        await ledger.want(number, 5)
    for _ in range(25):
        claims = await asyncio.gather(
            *(claim(engine, worker=f"w{n}", limit=limit) for n, limit in enumerate((3, 5, 2, 9)))
        )
        names = [lane.subscription for held in claims for lane in held]
        assert len(names) == len(set(names))
        assert all(lane.records for held in claims for lane in held)
        left = await claim(engine, worker="last", limit=99)
        assert {*names, *(lane.subscription for lane in left)} == {f"sub_{n}" for n in range(12)}
        assert await claim(engine, worker="late", limit=99) == []
        await release(engine, [*left, *(lane for held in claims for lane in held)])


async def test_what_waited_longest_goes_first_and_a_lane_is_bounded(
    engine: AsyncEngine, ledger: SeededLedger
) -> None:
    await ledger.want(1, 5, now=NOW - timedelta(seconds=1))
    await ledger.want(2, 5, now=NOW - timedelta(seconds=9))
    for second in range(7):
        await ledger.want(3, 5, at=AT + second, now=NOW - timedelta(seconds=5 - second % 3))
    await ledger.want(4, 5, now=NOW + timedelta(seconds=1))
    [first] = await claim(engine, limit=1)
    assert first.subscription == "sub_2"
    others = {lane.subscription: lane for lane in await claim(engine)}
    assert set(others) == {"sub_1", "sub_3"}
    seconds = [record.timestamp - AT for record in others["sub_3"].records]
    assert seconds == [0, 3, 6, 1, 4]


async def test_a_claim_writes_down_which_post_is_about_to_leave(
    engine: AsyncEngine, ledger: SeededLedger
) -> None:
    await ledger.want(1, 5, svix_id="msg_a")
    record = one(await claim(engine))
    assert (record.quantity, record.timestamp) == (5, AT)
    assert record.key == idempotency_key("msg_a", "si_1", AT, 1, 5)
    written = await ledger.record(1)
    assert (written.sent_key, written.sent_quantity) == (record.key, 5)


async def test_a_take_over_settles_the_same_post_before_anything_newer(
    engine: AsyncEngine, ledger: SeededLedger
) -> None:
    await ledger.want(1, 5)
    first = one(await claim(engine))
    await ledger.want(1, 7)  # while the first POST is, or may be, on its way
    assert await claim(engine, worker="w2") == []
    await ledger.expire_leases()
    second = one(await claim(engine, worker="w2"))
    assert (second.key, second.quantity) == (first.key, 5)


async def test_a_renewal_keeps_only_leases_that_still_stand(
    engine: AsyncEngine, ledger: SeededLedger
) -> None:
    await ledger.want(1, 5)
    await ledger.want(2, 5)
    mine = {lane.subscription: lane.token for lane in await claim(engine)}
    await ledger.run(
        "update subscription_lanes set leased_until = clock_timestamp() - interval '1 s' "
        "where subscription = 'sub_1'"
    )
    await claim(engine, worker="w2")
    async with transaction(engine) as connection:
        renewal = await lanes.renew(connection, {token: name for name, token in mine.items()})
    assert renewal.renewed == {mine["sub_2"]}
    assert renewal.lost == set(mine.values()) - {mine["sub_2"]}


async def test_a_lane_that_booking_has_locked_is_not_lost(
    engine: AsyncEngine, ledger: SeededLedger
) -> None:
    await ledger.want(1, 5)
    await ledger.want(2, 5)
    mine = {lane.subscription: lane.token for lane in await claim(engine)}
    async with transaction(engine) as booking:
        await booking.execute(
            text("select 1 from subscription_lanes where subscription = 'sub_1' for update")
        )
        async with transaction(engine) as connection:
            renewal = await lanes.renew(connection, {token: name for name, token in mine.items()})
    assert renewal.renewed == {mine["sub_2"]}
    assert renewal.lost == set()


async def test_a_renewal_lengthens_a_lease(engine: AsyncEngine, ledger: SeededLedger) -> None:
    await ledger.want(1, 5)
    [lane] = await claim(engine)
    await ledger.run(
        "update subscription_lanes set leased_until = clock_timestamp() + interval '10 ms'"
    )
    async with transaction(engine) as connection:
        renewal = await lanes.renew(connection, {lane.token: lane.subscription})
    assert renewal.renewed == {lane.token}
    [row] = await ledger.rows(
        "select leased_until > clock_timestamp() + interval '1 s' as kept from subscription_lanes"
    )
    assert row["kept"]


async def test_a_release_tells_when_the_lane_falls_due_again(
    engine: AsyncEngine, ledger: SeededLedger
) -> None:
    await ledger.want(1, 5)
    await ledger.want(1, 5, at=AT + 1, now=NOW + timedelta(seconds=30))
    await ledger.want(2, 5)
    held = await claim(engine)
    await ledger.run("update usage_records set state = 'reported', due_at = null where id = 1")
    await ledger.run("delete from usage_records where subscription = 'sub_2'")
    await release(engine, held)
    rows = await ledger.rows("select subscription, due_at, lease_token from subscription_lanes")
    assert {row["subscription"]: row["due_at"] for row in rows} == {
        "sub_1": NOW + timedelta(seconds=30),
        "sub_2": None,
    }
    assert all(row["lease_token"] is None for row in rows)
    async with transaction(engine) as connection:
        found = await lanes.claim_lanes(connection, now=NOW, worker="w1", limit=8)
    assert (found.leased, found.next_look) == ({}, 30)


async def test_a_stopping_worker_hands_back_its_own_leases(
    engine: AsyncEngine, ledger: SeededLedger
) -> None:
    await ledger.want(1, 5)
    await ledger.want(2, 5)
    await claim(engine, worker="w1", limit=1)
    [others] = await claim(engine, worker="w2", limit=1)
    async with transaction(engine) as connection:
        await lanes.release_all_of(connection, "w1")
    [freed] = await claim(engine, worker="w3")
    assert freed.subscription != others.subscription


async def test_claiming_booking_and_renewing_at_once_never_deadlock(
    engine: AsyncEngine, ledger: SeededLedger
) -> None:
    """A deadlock would be raised as DatabaseUnavailable by one of them."""
    for number in range(8):
        await ledger.want(number, 1)
    held = await claim(engine)
    tokens = {lane.token: lane.subscription for lane in held}

    async def renew() -> None:
        async with transaction(engine) as connection:
            await lanes.renew(connection, dict(reversed(tokens.items())))

    async def lock() -> None:
        async with transaction(engine) as connection:
            await lanes.lock_leased(connection, held[::-1])

    for quantity in range(2, 12):
        await asyncio.gather(
            *(ledger.want(number, quantity) for number in range(8)), renew(), lock(), renew()
        )
    assert await ledger.backlog() == 8
