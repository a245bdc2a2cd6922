"""Subscription snapshots: read once for all who ask, kept in the database, shared by replicas."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from unittest.mock import AsyncMock

import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from app.clock import ManualClock
from app.db import create_engine, transaction
from app.listener import Listener
from app.mapping import snapshots as module
from app.mapping.models import SubscriptionSnapshot
from app.mapping.snapshots import Snapshots, from_stripe, read_from_stripe
from app.stripe_client import (
    Price,
    ProblemKind,
    StripeAnswered,
    StripeClient,
    Subscription,
    SubscriptionItem,
)
from tests.dispatch.answers import answered
from tests.mapping.stripe_side import NOW, PERIOD_END, PERIOD_START, SECOND, item, snapshot

START, END = int(PERIOD_START.timestamp()), int(PERIOD_END.timestamp())


class Shown:
    """Reads: what stands in `held`, once the gate is open."""

    def __init__(self) -> None:
        self.held = {"sub_1": snapshot()}
        self.reads: Counter[str] = Counter()
        self.gate = asyncio.Event()
        self.gate.set()
        self.failure: Exception | None = None

    async def read(self, name: str) -> SubscriptionSnapshot:
        self.reads[name] += 1
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        return self.held[name]


@pytest.fixture
def shown() -> Shown:
    return Shown()


@pytest.fixture
async def lookups(fresh_url: URL) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(fresh_url, pool_size=2)
    yield engine
    await engine.dispose()


@pytest.fixture
def one(engine: AsyncEngine, lookups: AsyncEngine, shown: Shown) -> Snapshots:
    return Snapshots(engine, shown.read, lookups=lookups, size=100)


@pytest.fixture
def other(engine: AsyncEngine, lookups: AsyncEngine, shown: Shown) -> Snapshots:
    return Snapshots(engine, shown.read, lookups=lookups, size=100)


FULL = snapshot(
    item("si_1", price_metadata=(("a", "1"), ("b", "ü")), lookup_key="k", billing_meter="mtr_1"),
    item("si_2", usage_type=None, aggregate_usage=None, billing_thresholds=True),
    status="past_due",
    livemode=True,
    billing_thresholds=True,
    fetched_at=NOW.replace(microsecond=123456),
)


@pytest.mark.parametrize(
    "stored",
    [
        FULL,
        snapshot(),
        replace(snapshot(), items=()),
        SubscriptionSnapshot("sub_1", NOW, found=False),
    ],
    ids=["full", "plain", "no items", "not found"],
)
async def test_what_is_read_is_what_every_process_knows(
    one: Snapshots, other: Snapshots, shown: Shown, stored: SubscriptionSnapshot
) -> None:
    shown.held["sub_1"] = stored
    assert await one.known(["sub_1"]) == {}
    await asyncio.gather(one.refresh("sub_1"))
    one.forget_all()
    other.forget_all()
    assert await one.known(["sub_1", "sub_2"]) == {"sub_1": stored}
    assert await other.known(["sub_1"]) == {"sub_1": stored}
    assert shown.reads == {"sub_1": 1}


async def test_all_who_ask_at_once_share_one_read(one: Snapshots, shown: Shown) -> None:
    shown.gate.clear()
    asking = [asyncio.create_task(one.refresh("sub_1")) for _ in range(50)]
    await asyncio.sleep(0)
    shown.gate.set()
    assert await asyncio.gather(*asking) == [snapshot()] * 50
    assert shown.reads == {"sub_1": 1}
    await one.refresh("sub_1")
    assert shown.reads == {"sub_1": 2}


async def test_a_read_that_fails_is_told_and_leaves_what_was_known(
    one: Snapshots, shown: Shown
) -> None:
    await one.refresh("sub_1")
    shown.failure = ConnectionError("down")
    with pytest.raises(ConnectionError):
        await one.refresh("sub_1")
    assert await one.known(["sub_1"]) == {"sub_1": snapshot()}
    shown.failure = None
    assert await one.refresh("sub_1") == snapshot()


async def test_a_slower_read_does_not_put_an_older_answer_over_a_newer_one(
    one: Snapshots, other: Snapshots, shown: Shown
) -> None:
    newer = snapshot(status="past_due", fetched_at=NOW + SECOND)
    shown.held["sub_1"] = newer
    await one.refresh("sub_1")
    shown.held["sub_1"] = snapshot(fetched_at=NOW)
    # Who asked for the older one is told what stands, and has that in memory.
    assert await other.refresh("sub_1") == newer
    assert await other.known(["sub_1"]) == {"sub_1": newer}
    one.forget_all()
    assert await one.known(["sub_1"]) == {"sub_1": newer}


async def test_what_another_version_wrote_is_read_anew_or_understood(
    engine: AsyncEngine, one: Snapshots
) -> None:
    await one.refresh("sub_1")
    for change, known in [
        ("body || '{\"new_member\": 1}'", {"sub_1": snapshot()}),
        ("jsonb_set(body, '{items,0,new_member}', '1')", {"sub_1": snapshot()}),
        ("body #- '{items,0,price_id}'", {}),
        ("body - 'items'", {}),
        ("'[]'", {}),
    ]:
        async with transaction(engine) as connection:
            await connection.execute(text(f"update subscription_snapshots set body = {change}"))
        one.forget_all()
        assert await one.known(["sub_1"]) == known


async def test_a_read_is_notified_and_other_processes_forget(
    fresh_url: URL, one: Snapshots, other: Snapshots, shown: Shown
) -> None:
    heard = asyncio.Event()

    def changed(name: str) -> None:
        other.forget(name)
        heard.set()

    listening = asyncio.Event()
    listener = Listener(fresh_url, {module.CHANNEL: changed}, listening.set)
    await listener.start()
    try:
        await asyncio.wait_for(listening.wait(), 10)
        await one.refresh("sub_1")
        await asyncio.wait_for(heard.wait(), 10)
        assert await other.known(["sub_1"]) == {"sub_1": snapshot()}
        shown.held["sub_1"] = changed_one = snapshot(status="past_due")
        heard.clear()
        await one.refresh("sub_1")
        await asyncio.wait_for(heard.wait(), 10)
        assert await other.known(["sub_1"]) == {"sub_1": changed_one}
    finally:
        await listener.stop()


def answer(**members: object) -> Subscription:
    whole = Subscription(
        id="sub_1",
        customer="cus_1",
        status="active",
        livemode=False,
        current_period_start=START,
        current_period_end=END,
        items=(
            SubscriptionItem(
                "si_1",
                Price(
                    "price_1",
                    active=True,
                    currency="eur",
                    metadata={"b": "2", "a": "1"},
                    lookup_key="k",
                    usage_type="metered",
                    aggregate_usage="sum",
                ),
            ),
        ),
    )
    return replace(whole, **members)  # type: ignore[arg-type]


def test_stripes_answer_becomes_a_snapshot() -> None:
    found = from_stripe(answer(), NOW)
    shown = item(lookup_key="k", price_metadata=(("a", "1"), ("b", "2")))
    assert found == snapshot(shown, customer="cus_1")


def test_the_items_own_period_counts_before_the_subscriptions() -> None:
    own = replace(answer().items[0], current_period_start=START + 5, current_period_end=END + 5)
    [found] = from_stripe(answer(items=(own,)), NOW).items
    assert found.period_start == PERIOD_START + timedelta(seconds=5)
    assert found.period_end == PERIOD_END + timedelta(seconds=5)


def test_without_any_period_everything_is_after_it() -> None:
    [found] = from_stripe(answer(current_period_start=None, current_period_end=None), NOW).items
    assert found.period_end == datetime(1970, 1, 1, tzinfo=UTC)


async def test_an_unknown_subscription_is_an_answer_and_any_other_refusal_is_not() -> None:
    client = AsyncMock(spec=StripeClient)
    clock = ManualClock(NOW)
    client.subscription.return_value = answer()
    assert (await read_from_stripe(client, "sub_1", clock)).found
    client.subscription.side_effect = answered(ProblemKind.RESOURCE_MISSING)
    found = await read_from_stripe(client, "sub_1", clock)
    assert found == SubscriptionSnapshot("sub_1", NOW, found=False)
    for kind in set(ProblemKind) - {ProblemKind.RESOURCE_MISSING}:
        client.subscription.side_effect = answered(kind)
        with pytest.raises(StripeAnswered):
            await read_from_stripe(client, "sub_1", clock)
