"""A record whose item Stripe calls gone: moved where that is sound, held where it is not."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from app.ledger import rebooking
from app.ledger.rebooking import Rebooker
from app.mapping.models import SubscriptionSnapshot
from app.mapping.moving import still_billable
from tests.ledger.world import Replica, World, at, row
from tests.mapping.stripe_side import item, snapshot

MINUTE = timedelta(minutes=1)
BILLABLE: list[tuple[SubscriptionSnapshot, bool]] = [
    (snapshot(item()), True),
    (snapshot(item("si_2"), item()), True),
    (snapshot(item(), status="past_due"), True),
    (snapshot(item(aggregate_usage="max")), True),
    (snapshot(item("si_2")), False),
    (snapshot(item(), status="canceled"), False),
    (snapshot(item(), status="incomplete_expired"), False),
    (replace(snapshot(item()), found=False), False),
    (snapshot(item(usage_type="licensed")), False),
    (snapshot(item(billing_meter="mtr_1")), False),
    (snapshot(item(billing_thresholds=True)), True),
    (snapshot(item(), billing_thresholds=True), True),
]


@pytest.mark.parametrize(("shown", "billable"), BILLABLE)
def test_an_item_is_gone_or_still_takes_usage(shown: SubscriptionSnapshot, billable: bool) -> None:
    assert still_billable(shown, "si_1") is billable


async def refused(
    world: World, replica: Replica, item_name: str = "si_1", *, reason: str = "item_gone"
) -> None:
    """Stripe has refused the oldest due record of the item."""
    [record, *_] = await world.rows(
        "select id from usage_records where subscription_item = :item and state = 'due' "
        "order by timestamp",
        item=item_name,
    )
    rebooker = Rebooker(world.engine, world.clock, replica.snapshots)
    await rebooker.resolve_again(record["id"], "sub_1", item_name, reason=reason)


async def record(world: World) -> dict[str, Any]:
    [found] = await world.rows("select * from usage_records where subscription_item = 'si_1'")
    return found


async def test_the_windows_move_to_the_item_that_took_its_place(
    world: World, replica: Replica
) -> None:
    await world.deliver(row(0, 5), row(0, 6, groupBy={"a": "b"}))
    await replica.book()
    world.stripe.held["sub_1"] = snapshot(item("si_new"))
    await refused(world, replica)
    assert await world.states() == {"pending": 2}
    await replica.book()
    assert (await world.wanted("si_1"), await world.wanted("si_new")) == ({at(0): 0}, {at(0): 11})
    assert (await record(world))["state"] == "reported"
    assert (await world.total("si_1"), await world.total("si_new")) == ((0, 0), (11, 11))
    assert world.stripe.reads == {"sub_1": 2}


async def test_without_a_new_item_the_windows_are_parked(world: World, replica: Replica) -> None:
    await world.deliver(row(0, 5))
    await replica.book()
    world.stripe.held["sub_1"] = snapshot(status="canceled")
    await refused(world, replica)
    await replica.book()
    assert await world.parked() == {"subscription_ended": 1}
    assert (await record(world))["state"] == "reported"


STANDING = [
    pytest.param("si_1", "revision = 1", "item_gone", id="the item is still there"),
    pytest.param("si_new", "reported_quantity = 2", "item_gone", id="part of it stands at Stripe"),
    pytest.param("si_new", "doubtful = true", "outcome_in_doubt", id="it may have been executed"),
]


@pytest.mark.parametrize(("shown", "sent", "reason"), STANDING)
async def test_what_may_be_billed_twice_is_held(
    world: World, replica: Replica, shown: str, sent: str, reason: str
) -> None:
    await world.deliver(row(0, 5))
    await replica.book()
    await world.run(f"update usage_records set {sent}")
    world.stripe.held["sub_1"] = snapshot(item(shown))
    await refused(world, replica)
    found = await record(world)
    assert (found["state"], found["reason"], found["due_at"]) == ("held", reason, None)
    assert found["wanted_quantity"] == 5
    assert await world.states() == {"booked": 1}


async def test_a_record_that_was_taken_up_again_is_left_to_that_answer(
    world: World, replica: Replica
) -> None:
    await world.deliver(row(0, 5))
    await replica.book()
    await world.run("update usage_records set sent_key = 'k', sent_quantity = 5")
    world.stripe.held["sub_1"] = snapshot(item("si_new"))
    await refused(world, replica)
    assert (await record(world))["state"] == "due"
    assert await world.states() == {"booked": 1}


@pytest.mark.parametrize("sent", ["sent_key = 'k', sent_quantity = 2", "doubtful = true"])
async def test_what_may_stand_of_the_other_records_stays(
    world: World, replica: Replica, sent: str
) -> None:
    await world.deliver(row(0, 1), row(1, 2))
    await replica.book()
    await world.run(f"update usage_records set {sent} where timestamp = :at", at=at(1))
    world.stripe.held["sub_1"] = snapshot(item("si_new"))
    await refused(world, replica)
    await replica.book()
    assert await world.wanted("si_1") == {at(0): 0, at(1): 2}
    assert await world.wanted("si_new") == {at(0): 1}


@pytest.fixture
def by_twos(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two windows are taken off in a transaction."""
    monkeypatch.setattr(rebooking, "WINDOWS_AT_ONCE", 2)


KINDS = [
    ("SUM", None, ("0.4", "1.7", "2", "0", "-1", "3.5", "0.6"), 7),
    ("MAX", "max", ("1", "5.5", "2", "0", "-1", "5", "3"), 6),
]


@pytest.mark.usefixtures("by_twos")
@pytest.mark.parametrize(("aggregation", "usage", "values", "billed"), KINDS)
async def test_a_record_of_many_windows_is_emptied_by_and_by(
    world: World,
    replica: Replica,
    aggregation: str,
    usage: str | None,
    values: tuple[str, ...],
    billed: int,
) -> None:
    shown = {"aggregate_usage": usage} if usage else {}
    await world.apply(
        "meters: [{meter: tokens, price: price_1, record_per: period}]\n"
        "subjects: [{subject: customer-1, subscription: sub_1}]"
    )
    world.stripe.held["sub_1"] = snapshot(item(**shown))
    await world.deliver(
        *(row(hour, value) for hour, value in enumerate(values)), aggregation=aggregation
    )
    await replica.book()
    assert set((await world.wanted()).values()) == {billed}
    world.stripe.held["sub_1"] = snapshot(item("si_new", **shown))
    await refused(world, replica)
    assert await world.states() == {"pending": len(values)}
    assert ((await record(world))["state"], (await record(world))["due_at"]) == ("reported", None)
    await replica.book()
    assert set((await world.wanted("si_1")).values()) == {0}
    assert set((await world.wanted("si_new")).values()) == {billed}


@pytest.mark.usefixtures("by_twos")
async def test_ended_in_the_middle_it_goes_on_with_the_next_refusal(
    world: World, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is on the record adds up in between, and it is not sent before it is looked at anew."""
    await world.deliver(*(row(0, hour + 1, groupBy={"n": str(hour)}) for hour in range(5)))
    await replica.book()
    world.stripe.held["sub_1"] = snapshot(item("si_new"))

    async def killed(*_: object) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Rebooker, "_take_off_more", killed)
        with pytest.raises(KeyboardInterrupt):
            await refused(world, replica)
    assert await world.states() == {"booked": 3, "pending": 2}
    [standing] = await world.rows(
        "select sum(value) as value from usage_windows where state = 'booked'"
    )
    found = await record(world)
    assert (found["state"], found["wanted_quantity"]) == ("due", standing["value"])
    assert found["due_at"] > world.clock.now() + MINUTE / 2
    assert await world.total() == (standing["value"], standing["value"])
    await replica.book()
    await refused(world, replica)
    await replica.book()
    assert (await world.total("si_1"), await world.total("si_new")) == ((0, 0), (15, 15))


@pytest.mark.usefixtures("by_twos")
async def test_what_was_taken_up_in_between_keeps_the_rest(
    world: World, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.deliver(*(row(0, hour + 1, groupBy={"n": str(hour)}) for hour in range(5)))
    await replica.book()
    world.stripe.held["sub_1"] = snapshot(item("si_new"))
    more = Rebooker._take_off_more

    async def after_a_claim(rebooker: Rebooker, *rest: Any) -> bool:
        await world.run("update usage_records set sent_key = 'k', sent_quantity = 12")
        return await more(rebooker, *rest)

    monkeypatch.setattr(Rebooker, "_take_off_more", after_a_claim)
    await refused(world, replica)
    assert await world.states() == {"booked": 3, "pending": 2}


async def test_all_that_is_unsent_of_the_item_moves_at_once(world: World, replica: Replica) -> None:
    """One refusal and one read, however many records the item has."""
    await world.deliver(*(row(hour, hour + 1) for hour in range(5)))
    await replica.book()
    await world.run(
        "update usage_records set reported_quantity = wanted_quantity, state = 'reported', "
        "due_at = null, unsent_since = null where timestamp = :at",
        at=at(0),
    )
    world.stripe.held["sub_1"] = snapshot(item("si_new"))
    await refused(world, replica)
    await replica.book()
    assert await world.wanted("si_1") == {at(0): 1, at(1): 0, at(2): 0, at(3): 0, at(4): 0}
    assert await world.wanted("si_new") == {at(1): 2, at(2): 3, at(3): 4, at(4): 5}
    assert await world.rows("select 1 from usage_records where state = 'held'") == []
    assert world.stripe.reads == {"sub_1": 2}


async def test_fractions_leave_nothing_behind_on_an_item_that_is_gone(
    world: World, replica: Replica
) -> None:
    """0.6 and 0.6 are 1 and 0: moving the first alone would leave its 1 behind for the second."""
    await world.deliver(row(0, "0.6"), row(1, "0.6"))
    await replica.book()
    assert await world.wanted("si_1") == {at(0): 1, at(1): 0}
    world.stripe.held["sub_1"] = snapshot(item("si_new"))
    await refused(world, replica)
    await replica.book()
    assert await world.total("si_1") == (0, 0)
    assert await world.total("si_new") == (1, 1)
    assert await world.rows("select 1 from usage_records where state = 'held'") == []


async def test_a_closed_period_of_an_item_that_is_still_there_is_held(
    world: World, replica: Replica
) -> None:
    """Booked anew, its windows would come to the same second, and be refused again, for ever."""
    await world.deliver(row(0, 5), row(1, 6))
    await replica.book()
    await refused(world, replica, reason="period_closed")
    states = await world.rows("select state, reason from usage_records order by timestamp")
    assert states == [
        {"state": "held", "reason": "period_closed"},
        {"state": "due", "reason": None},
    ]
    assert await world.states() == {"booked": 2}
    assert await replica.book() == []


THRESHOLDS = [
    pytest.param(snapshot(item(), billing_thresholds=True), id="of the subscription"),
    pytest.param(snapshot(item(billing_thresholds=True)), id="of the item"),
]


@pytest.mark.parametrize("shown", THRESHOLDS)
async def test_under_thresholds_all_that_is_settled_goes_on_by_increments(
    world: World, replica: Replica, shown: SubscriptionSnapshot
) -> None:
    await world.deliver(*(row(hour, 5) for hour in range(4)))
    await replica.book()
    await world.run(
        "update usage_records set state = 'reported', reported_quantity = 5, due_at = null, "
        "unsent_since = null where timestamp = :at",
        at=at(1),
    )
    await world.run(
        "update usage_records set sent_key = 'k', sent_quantity = 5, sent_action = 'set' "
        "where timestamp = :at",
        at=at(2),
    )
    await world.run("update usage_records set doubtful = true where timestamp = :at", at=at(3))
    await world.run(
        "update usage_records set due_at = :later where state = 'due'",
        later=world.clock.now() + MINUTE,
    )
    world.stripe.held["sub_1"] = shown
    await refused(world, replica, reason="billing_thresholds")
    rows = await world.rows(
        "select timestamp, state, increment, due_at, sent_key from usage_records order by timestamp"
    )
    assert [(r["state"], r["increment"]) for r in rows] == [
        ("due", True),
        ("reported", True),
        # Of these it is not known what Stripe holds: they are `set` until they are refused.
        ("due", False),
        ("due", False),
    ]
    assert rows[0]["due_at"] == world.clock.now()
    assert rows[2]["sent_key"] == "k"
    [lane] = await world.rows("select due_at from subscription_lanes")
    assert lane["due_at"] <= world.clock.now()
    assert await world.states() == {"booked": 4}


async def test_thresholds_that_stripe_does_not_show_hold_the_record(
    world: World, replica: Replica
) -> None:
    await world.deliver(row(0, 5))
    await replica.book()
    await refused(world, replica, reason="billing_thresholds")
    found = await record(world)
    assert (found["state"], found["reason"]) == ("held", "billing_thresholds")
    assert not found["increment"]


async def test_under_thresholds_what_may_have_counted_is_held(
    world: World, replica: Replica
) -> None:
    """An abandoned `set` may stand there: the difference to it is not known."""
    await world.deliver(row(0, 5))
    await replica.book()
    await world.run("update usage_records set doubtful = true")
    world.stripe.held["sub_1"] = snapshot(item(), billing_thresholds=True)
    await refused(world, replica, reason="billing_thresholds")
    found = await record(world)
    assert (found["state"], found["reason"]) == ("held", "outcome_in_doubt")
    assert not found["increment"]


async def test_under_thresholds_a_record_taken_up_again_is_left_to_that_answer(
    world: World, replica: Replica
) -> None:
    await world.deliver(row(0, 5))
    await replica.book()
    await world.run("update usage_records set sent_key = 'k', sent_quantity = 5")
    world.stripe.held["sub_1"] = snapshot(item(), billing_thresholds=True)
    await refused(world, replica, reason="billing_thresholds")
    found = await record(world)
    assert (found["state"], found["increment"], found["sent_key"]) == ("due", False, "k")


async def test_an_item_that_is_gone_is_gone_under_thresholds_too(
    world: World, replica: Replica
) -> None:
    await world.deliver(row(0, 5))
    await replica.book()
    world.stripe.held["sub_1"] = snapshot(item("si_new"), billing_thresholds=True)
    await refused(world, replica, reason="billing_thresholds")
    await replica.book()
    assert await world.wanted("si_new") == {at(0): 5}
    [moved] = await world.rows(
        "select increment from usage_records where subscription_item = 'si_new'"
    )
    assert moved["increment"]
