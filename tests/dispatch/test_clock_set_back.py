"""The database's clock is set back, as by a failover: here, what stands is an hour ahead of it."""

from sqlalchemy.ext.asyncio import AsyncEngine

from app.db import transaction
from app.dispatch import lanes
from app.dispatch.shared_pace import (
    FURTHEST_AHEAD,
    PaceLimits,
    begin_pace,
    lease_slots,
    slow_down,
)
from tests.dispatch.ledger import NOW, SeededLedger

LIMITS = PaceLimits("test", start=20.0, ceiling=25.0, floor=1.0)
HOUR = "clock_timestamp() + interval '1 hour'"


async def test_slots_wait_no_longer_than_for_the_longest_pause(
    engine: AsyncEngine, ledger: SeededLedger
) -> None:
    async with transaction(engine) as connection:
        await begin_pace(connection, LIMITS)
    await ledger.run(f"update stripe_pace set next_at = {HOUR}")
    for _ in range(2):
        async with transaction(engine) as connection:
            lease = await lease_slots(
                connection, LIMITS, slots=1, margin=1.0, late=0.0, raised=0.0, lead=0.0
            )
        assert lease is not None
        assert FURTHEST_AHEAD - 60 < lease.wait < FURTHEST_AHEAD + 1
    [row] = await ledger.rows(
        "select next_at < clock_timestamp() + interval '15 minutes' as mended from stripe_pace"
    )
    assert row["mended"]


async def test_a_halving_of_the_future_hides_none_of_now(
    engine: AsyncEngine, ledger: SeededLedger
) -> None:
    async with transaction(engine) as connection:
        await begin_pace(connection, LIMITS)
    await ledger.run(f"update stripe_pace set slowed_at = {HOUR}")
    for halved in (10.0, None):
        async with transaction(engine) as connection:
            found = await slow_down(connection, LIMITS, pause=0, halve=True, age=60.0)
        assert found == halved


async def claim(engine: AsyncEngine, worker: str) -> set[str]:
    async with transaction(engine) as connection:
        found = await lanes.claim_lanes(connection, now=NOW, worker=worker, limit=8, urgent=4)
    return set(found.leased)


async def test_a_lease_of_the_future_ends_soon_and_not_under_its_living_holder(
    engine: AsyncEngine, ledger: SeededLedger
) -> None:
    await ledger.want(1, 5)
    await ledger.want(2, 5)
    async with transaction(engine) as connection:
        held = (await lanes.claim_lanes(connection, now=NOW, worker="alive", limit=8)).leased
    await ledger.run(f"update subscription_lanes set leased_until = {HOUR}")
    await ledger.want(3, 5)
    async with transaction(engine) as connection:
        found = await lanes.claim_lanes(connection, now=NOW, worker="other", limit=8, urgent=4)
        wait = found.next_look
        renewal = await lanes.renew(connection, {held["sub_1"]: "sub_1"})
    assert set(found.leased) == {"sub_3"}
    assert wait is not None
    assert wait <= lanes.LEASE
    assert renewal.renewed == {held["sub_1"]}
    await ledger.run(
        "update subscription_lanes set leased_until = leased_until - interval '4 s' "
        "where subscription = 'sub_2'"
    )
    assert "sub_2" in await claim(engine, "other")
