"""Usage that a mapping moves: down at its old place first, then up at its new one, once."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from fractions import Fraction

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import transaction
from app.ledger import windows as facts
from app.ledger.windows import SettledWindow
from app.mapping.releases import release_named
from tests.ledger.moves import (
    MOVED,
    MOVED_BACK,
    OTHER_PRICE,
    SPLIT,
    UPGRADED,
    Call,
    Moving,
)
from tests.ledger.world import DAY, ONE_CUSTOMER, Replica, World, at, row
from tests.mapping.stripe_side import HOUR

APRIL, MAY = datetime(2026, 4, 1, tzinfo=UTC), datetime(2026, 5, 1, tzinfo=UTC)


async def test_an_upgrade_dated_back(moving: Moving, replica: Replica) -> None:
    await moving.tell(replica, 1, 2, 3, 4)
    shown = (await moving.preview(UPGRADED)).moves
    assert [(m.subscription_item, m.to_subscription, m.windows, m.amount) for m in shown.moves] == [
        ("si_1", "sub_2", 2, Fraction(7))
    ]
    assert shown.obstructed == ()
    assert await moving.moving() == []
    moving.calls.clear()
    moving.most = Fraction(10)
    assert (await moving.apply(UPGRADED)).moves == shown
    await moving.settle(replica)
    await moving.check([Fraction(n) for n in (1, 2, 3, 4)], {"si_1": [0, 1], "si_2": [2, 3]})
    assert moving.calls == [
        Call("si_1", at(2), 0),
        Call("si_1", at(3), 0),
        Call("si_2", at(2), 3),
        Call("si_2", at(3), 4),
    ]


async def test_the_new_side_waits_for_the_old_one(moving: Moving, replica: Replica) -> None:
    await moving.tell(replica, 5)
    await moving.apply(MOVED)
    await replica.book()
    [window] = await moving.moving()
    assert (window["state"], window["reason"], window["usage_record_id"]) == (
        "pending",
        "moving",
        None,
    )
    assert "waits until that has come down" in window["detail"]
    assert await replica.book() == []
    assert await moving.world.wanted("si_2") == {}
    await moving.send()
    await replica.book()
    assert await moving.world.wanted("si_2") == {at(0): 5}


async def test_another_price(moving: Moving, replica: Replica) -> None:
    moving.most = Fraction(7)
    await moving.tell(replica, 5, 2)
    await moving.apply(OTHER_PRICE)
    await moving.settle(replica)
    await moving.check([Fraction(5), Fraction(2)], {"si_1b": [0, 1]})


async def test_a_split(moving: Moving, replica: Replica) -> None:
    rows = [row(0, 5, groupBy={"model": "gpt-4"}), row(0, 3, groupBy={"model": "o"}), row(1, 1)]
    await moving.world.deliver(*rows)
    await moving.settle(replica)
    await moving.apply(SPLIT)
    await moving.settle(replica)
    assert await moving.billed() == {"si_1": 4, "si_1b": 5}
    await moving.apply(ONE_CUSTOMER)
    await moving.settle(replica)
    assert await moving.billed() == {"si_1": 9}


@pytest.mark.parametrize(
    "file",
    [
        "meters: [{meter: tokens, price: price_1, scale: 1/1000, rounding: up}]",
        "meters: [{meter: tokens, price: price_1, record_per: day, timestamp: window_end}]",
        "meters: [{meter: tokens, price: price_1, late: hold}]",
        "meters: [{meter: tokens, price: [price_1, price_9]}]",
        'subjects: [{subject: customer-1, subscription: sub_1, valid_from: "2026-01-01"}]',
        "subjects: [{subject: customer-2, subscription: sub_2}]",
    ],
)
async def test_what_moves_nothing(moving: Moving, replica: Replica, file: str) -> None:
    await moving.tell(replica, 5)
    moving.calls.clear()
    applied = await moving.apply(file)
    assert (applied.moves.moves, applied.moves.stays) == ((), ())
    await moving.settle(replica)
    assert moving.calls == []
    assert await moving.billed() == {"si_1": 5}


async def test_what_was_never_sent_needs_no_call_at_its_old_place(
    moving: Moving, replica: Replica
) -> None:
    await moving.world.deliver(row(0, 5))
    await replica.book()
    (move,) = (await moving.apply(MOVED)).moves.moves
    assert move.at_stripe == 0
    await moving.settle(replica)
    assert moving.calls == [Call("si_2", at(0), 5)]


async def test_without_a_place_it_stays(moving: Moving, replica: Replica) -> None:
    await moving.tell(replica, 1, 2, 3)
    closed = UPGRADED.splitlines()[0:3]
    applied = await moving.apply("\n".join(closed))
    assert applied.moves.moves == ()
    assert [(stay.subscription_item, stay.windows) for stay in applied.moves.stays] == [("si_1", 1)]
    await moving.settle(replica)
    assert await moving.billed() == {"si_1": 6}
    await moving.apply(UPGRADED)
    await moving.settle(replica)
    assert await moving.billed() == {"si_1": 3, "si_2": 3}


async def test_a_correction_while_it_moves(moving: Moving, replica: Replica) -> None:
    await moving.tell(replica, 5, 7)
    await moving.apply(MOVED)
    await moving.world.deliver(row(0, 6))  # on its old record still
    await replica.book()
    await moving.world.deliver(row(1, 8))  # on no record
    await replica.book()
    assert await moving.world.wanted("si_2") == {}
    moving.most = Fraction(14)
    await moving.settle(replica)
    await moving.check([Fraction(6), Fraction(8)], {"si_2": [0, 1]})


async def test_a_change_back_before_it_left(moving: Moving, replica: Replica) -> None:
    await moving.tell(replica, 5)
    moving.calls.clear()
    await moving.apply(MOVED)
    await moving.apply(MOVED_BACK)
    await moving.settle(replica)
    assert moving.calls == []
    await moving.check([Fraction(5)], {"si_1": [0]})


async def test_a_change_back_after_it_left(moving: Moving, replica: Replica) -> None:
    await moving.tell(replica, 5)
    await moving.apply(MOVED)
    await replica.book()
    await moving.apply(MOVED_BACK)
    await moving.settle(replica)
    await moving.check([Fraction(5)], {"si_1": [0]})


async def test_where_nobody_can_bill_it_it_stays_until_somebody_can(
    moving: Moving, replica: Replica
) -> None:
    await moving.tell(replica, 5)
    moving.calls.clear()
    await moving.apply("subjects: [{subject: customer-1, subscription: sub_3}]")
    await moving.settle(replica)
    assert await moving.world.parked() == {"subscription_not_found": 1}
    assert moving.calls == []
    assert await moving.billed() == {"si_1": 5}
    moving.world.stripe.show("sub_3")
    await replica.read(["sub_3"])  # which releases what waits for it
    await moving.settle(replica)
    await moving.check([Fraction(5)], {"si_3": [0]})


async def test_a_parked_correction_stays_and_is_told(moving: Moving, replica: Replica) -> None:
    await moving.tell(replica, 5)
    await moving.world.run("update usage_windows set state = 'parked', reason = 'needs_approval'")
    applied = await moving.apply(OTHER_PRICE)
    assert applied.moves.moves == ()
    assert [stay.why for stay in applied.moves.stays] == ["a correction of them is parked"]


async def test_what_is_asked_from_openmeter_goes_on_being_asked(world: World) -> None:
    """The answer may be on its way: it finds the window as it was, and the window moves then."""
    world.rules = replace(world.rules, queries=True)
    moving = Moving(world)
    async with world.replica() as replica:
        await moving.tell(replica, 5)
        await world.run("update usage_windows set state = 'pending', reason = 'awaiting_query'")
        await moving.apply(MOVED)
        await replica.book()
        [window] = await moving.moving()
        assert window["reason"] == "awaiting_query"
        await world.run("update usage_windows set value = 6, revision = 2, reason = null")
        await moving.settle(replica)
    await moving.check([Fraction(6)], {"si_2": [0]})


async def test_another_window_is_not_let_in_meanwhile(moving: Moving, replica: Replica) -> None:
    day = {"windowStart": DAY.isoformat(), "windowEnd": (DAY + 24 * HOUR).isoformat()}
    await moving.tell(replica, 5)
    await moving.world.deliver({"value": "9", **day})
    await moving.settle(replica)
    [parked] = await moving.world.rows("select id from usage_windows where state = 'parked'")
    await moving.apply(MOVED)
    await replica.book()
    async with transaction(moving.world.engine) as connection:
        await release_named(connection, [parked["id"]], vouched=True)
    await moving.settle(replica)
    assert await moving.world.parked() == {"overlaps_window": 1}
    assert await moving.billed() == {"si_2": 5}


class Killed(BaseException):
    """The process is gone: nobody catches this."""


@pytest.mark.parametrize(
    ("change", "items"), [(UPGRADED, {"si_1", "si_2"}), (OTHER_PRICE, {"si_1b"})]
)
async def test_killed_before_each_commit_and_started_again(
    moving: Moving,
    replica: Replica,
    monkeypatch: pytest.MonkeyPatch,
    change: str,
    items: set[str],
) -> None:
    await moving.world.deliver(*(row(hour, f"{hour}.4") for hour in range(4)))
    await moving.settle(replica)
    moving.most = Fraction(8)
    settle = facts.settle_windows

    async def killed(
        connection: AsyncConnection, settled: Sequence[SettledWindow], *, now: datetime
    ) -> None:
        await settle(connection, settled, now=now)
        if settled:
            raise Killed

    await moving.apply(change)
    kills = 0
    for _ in range(20):
        async with moving.world.replica() as dying:
            monkeypatch.setattr(facts, "settle_windows", killed)
            try:
                await dying.booker.book()
            except Killed:
                kills += 1
        monkeypatch.setattr(facts, "settle_windows", settle)
        async with moving.world.replica() as next_one:
            done = await next_one.booker.book()
            await next_one.read(done.subscriptions)
        if not await moving.send() and done.idle:
            break
    assert kills >= 2
    assert await moving.moving() == []
    billed = await moving.billed()
    assert sum(billed.values()) == 8
    assert set(billed) == items


async def test_two_replicas_move_it_once(moving: Moving, replica: Replica) -> None:
    moving.most = Fraction(60)
    await moving.tell(replica, *[3] * 20)
    async with moving.world.replica() as other:
        await moving.apply(UPGRADED)
        for _ in range(10):
            await asyncio.gather(replica.book(), other.book(), replica.book())
            await moving.send()
    values = [Fraction(3)] * 20
    await moving.check(values, {"si_1": [0, 1], "si_2": list(range(2, 20))})
    ups = [n for n, call in enumerate(moving.calls) if call.subscription_item == "si_2"]
    downs = [n for n, call in enumerate(moving.calls) if call.quantity == 0]
    assert max(downs) < min(ups)


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_is_changed_and_when(world: World, seed: int) -> None:
    """Fractions, revisions, and mappings that change while others are still being carried out."""
    chance = random.Random(seed)  # noqa: S311 - not for secrets
    moving = Moving(world)
    scale = Fraction(1, 3)
    price = "price_1"
    cut: int | None = None
    await moving.apply("meters: [{meter: tokens, price: price_1, scale: 1/3}]")
    values = [Fraction(0)] * 8
    async with world.replica() as one, world.replica() as two:
        for _ in range(30):
            step = chance.randrange(6)
            if step == 0:
                hour = chance.randrange(8)
                value = chance.randrange(1, 30)
                values[hour] = value * scale
                await world.deliver(row(hour, value))
            elif step == 1:
                cut = chance.randrange(9)
                begins = (DAY + cut * HOUR).isoformat()
                await moving.apply(
                    "subjects: "
                    f'[{{subject: customer-1, subscription: sub_1, valid_to: "{begins}"}}, '
                    f'{{subject: customer-1, subscription: sub_2, valid_from: "{begins}"}}]'
                )
            elif step == 2:
                price = chance.choice(["[price_1]", "[price_1, price_9]", "[price_2, price_1b]"])
                await moving.apply(f"meters: [{{meter: tokens, price: {price}, scale: 1/3}}]")
            elif step == 3:
                await moving.send(only=chance.choice([None, "si_1", "si_2"]))
            else:
                await chance.choice([one, two]).book()
        for _ in range(4):
            await moving.settle(one, two)
    suffix = "b" if "price_2" in price else ""
    divided = 8 if cut is None else cut
    told = [n for n in range(8) if values[n]]
    await moving.check(
        values,
        {
            f"si_1{suffix}": [n for n in told if n < divided],
            f"si_2{suffix}": [n for n in told if n >= divided],
        },
    )
