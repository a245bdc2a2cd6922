"""Maxima, newest values, buckets, roundings and split meters, on a real ledger."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.ledger.months import APRIL, MARCH, Line, months_of, used
from tests.ledger.world import Replica, World, at, row
from tests.mapping.stripe_side import HOUR, PERIOD_START, item, snapshot

TWO_SUBJECTS = """
subjects:
  - {subject: customer-1, subscription: sub_1}
  - {subject: customer-2, subscription: sub_1}
"""


def shows(world: World, *items: Any) -> None:
    """Stripe's sub_1 has these items."""
    world.stripe.held["sub_1"] = snapshot(*items)


async def mapped(world: World, members: str = "") -> None:
    """The meter tokens on price_1, and customers 1 and 2 on sub_1."""
    await world.apply(f"meters: [{{meter: tokens, price: price_1{members}}}]\n{TWO_SUBJECTS}")


async def told(
    world: World, replica: Replica, *rows: dict[str, Any], aggregation: str, **members: Any
) -> None:
    """A delivery, booked."""
    await world.deliver(*rows, aggregation=aggregation, **members)
    await replica.book()


async def due(world: World) -> dict[int, int]:
    """What is still to be sent: second -> quantity."""
    rows = await world.rows(
        "select timestamp, wanted_quantity from usage_records where state = 'due'"
    )
    return {row["timestamp"]: int(row["wanted_quantity"]) for row in rows}


async def sent(world: World) -> None:
    """Stripe has taken all that was due."""
    await world.run(
        "update usage_records set reported_quantity = wanted_quantity, state = 'reported', "
        "due_at = null, unsent_since = null where state = 'due'"
    )


async def test_a_maximum_falls_back_to_the_second_largest(world: World, replica: Replica) -> None:
    await mapped(world, ", record_per: day")
    shows(world, item(aggregate_usage="max"))
    day = int(datetime(2026, 3, 9, tzinfo=UTC).timestamp())
    seen = []
    revised = {"groupBy": {"m": "a"}}
    other = {"subject": "customer-2"}
    messages: list[tuple[list[dict[str, Any]], dict[str, Any]]] = [
        ([row(0, 5), row(1, 9, **revised)], {}),
        ([row(2, 7)], other),
        ([row(1, 3, **revised)], {}),
        ([row(2, "6.5")], other),
        ([row(0, "6.4")], {}),
        ([row(2, 0)], other),
        ([row(0, 0)], {}),
        ([row(1, -3, **revised)], {}),
    ]
    for rows, members in messages:
        await told(world, replica, *rows, aggregation="MAX", **members)
        seen.append(await world.wanted())
        await sent(world)
    assert seen == [{day: value} for value in (9, 9, 7, 7, 7, 6, 3, 0)]
    assert await world.states() == {"booked": 3}


async def test_a_maximum_per_window_is_that_of_its_groups_and_subjects(
    world: World, replica: Replica
) -> None:
    await mapped(world)
    shows(world, item(aggregate_usage="max"))
    await told(world, replica, row(0, 4), row(1, 8), aggregation="MAX")
    await told(world, replica, row(0, 6), aggregation="MAX", subject="customer-2")
    assert await world.wanted() == {at(0): 6, at(1): 8}
    [period] = await world.rows("select rounded_total, exact_numerator from item_periods")
    assert (int(period["rounded_total"]), int(period["exact_numerator"])) == (0, 0)


async def test_of_the_newest_value_every_window_has_its_record_and_zero_is_sent(
    world: World, replica: Replica
) -> None:
    """Five seats, then none: Stripe bills the newest record, so the none must be one."""
    await mapped(world, ", record_per: day")
    shows(world, item(aggregate_usage="last_during_period"))
    await told(world, replica, row(1, 5), aggregation="LATEST")
    await sent(world)
    await told(world, replica, row(2, 0), row(3, 0), aggregation="LATEST")
    assert await due(world) == {at(2): 0, at(3): 0}
    await sent(world)
    await told(world, replica, row(3, 4), aggregation="LATEST")
    await told(world, replica, row(3, 0), aggregation="LATEST")
    assert await due(world) == {at(3): 0}
    await sent(world)
    await told(world, replica, row(0, 9), row(3, 0), aggregation="LATEST")
    assert await due(world) == {at(0): 9}
    assert await world.wanted() == {at(0): 9, at(1): 5, at(2): 0, at(3): 0}


async def test_a_zero_that_was_never_sent_is_sent_nowhere_when_its_item_is_gone(
    world: World,
) -> None:
    async with months_of(world) as months:
        await mapped(world)
        shows(world, item(aggregate_usage="last_during_period"))
        await world.deliver(row(1, 0), aggregation="LATEST")
        await months.replica.book()
        shows(world, item("si_2", aggregate_usage="last_during_period"))
        [record] = await world.rows("select id from usage_records")
        await months.refuse(record["id"], "si_1", "item_gone")
        await months.replica.book()
        rows = await world.rows("select subscription_item, state from usage_records order by id")
        assert [(r["subscription_item"], r["state"]) for r in rows] == [
            ("si_1", "reported"),
            ("si_2", "due"),
        ]


OTHERS: list[dict[str, Any]] = [
    {"subject": "customer-2"},
    {"meter": "seats"},
    {"groupBy": {"plan": "a"}},
]


@pytest.mark.parametrize("other", OTHERS, ids=["subject", "meter", "group"])
async def test_the_newest_of_two_series_is_that_of_neither(
    world: World, replica: Replica, other: dict[str, Any]
) -> None:
    await world.apply(
        "meters: [{meter: tokens, price: price_1}, {meter: seats, price: price_1}]" + TWO_SUBJECTS
    )
    shows(world, item(aggregate_usage="last_during_period"))
    groups = {key: other[key] for key in other if key == "groupBy"}
    members = {key: other[key] for key in other if key != "groupBy"}
    await told(world, replica, row(0, 5), aggregation="LATEST")
    await told(
        world, replica, row(0, 9, **groups), row(1, 9, **groups), aggregation="LATEST", **members
    )
    await told(world, replica, row(2, 7), aggregation="LATEST")
    assert await world.parked() == {"not_across_groups": 2}
    assert await world.wanted() == {at(0): 5, at(2): 7}


async def test_another_series_may_have_the_next_period(world: World) -> None:
    async with months_of(world) as months:
        await mapped(world)
        shows(world, item(aggregate_usage="last_during_period"))
        await months.tell(used(MARCH, 5, 5), aggregation="LATEST")
        await months.begin(APRIL, aggregate_usage="last_during_period")
        await months.tell(used(APRIL, 0, 6), aggregation="LATEST")
        await months.tell(used(APRIL, 1, 8), aggregation="LATEST", subject="customer-2")
        assert await months.months() == {MARCH: Line(5), APRIL: Line(6)}
        assert await world.parked() == {"not_across_groups": 1}
        # Stripe takes nothing late beside `sum`, and a newest value cannot be carried.
        await months.tell(used(MARCH, 6, 7), used(MARCH, 5, 2), aggregation="LATEST")
        assert await world.parked() == {"not_across_groups": 1, "period_closed": 1}
        assert await months.months() == {MARCH: Line(5, -3), APRIL: Line(6)}
        assert list(await months.held()) == ["period_closed"]


async def test_a_revision_with_another_aggregation_changes_nothing_that_is_booked(
    world: World, replica: Replica
) -> None:
    await mapped(world)
    await told(world, replica, row(0, 5), row(1, 6), aggregation="SUM")
    await told(world, replica, row(0, 50), aggregation="MAX")
    assert await world.parked() == {"aggregation_mismatch": 1}
    assert await world.wanted() == {at(0): 5, at(1): 6}
    await told(world, replica, row(0, 7), aggregation="COUNT")
    assert (await world.parked(), await world.wanted()) == ({}, {at(0): 7, at(1): 6})


async def test_a_parked_revision_still_counts_in_the_maximum(
    world: World, replica: Replica
) -> None:
    await mapped(world, ", record_per: day")
    shows(world, item(aggregate_usage="max"))
    await told(world, replica, row(0, 5), row(1, 6), aggregation="MAX")
    await told(world, replica, row(1, 50), aggregation="SUM")
    await told(world, replica, row(0, 2), aggregation="MAX")
    assert list((await world.wanted()).values()) == [6]


async def test_another_bucket_in_mid_period_counts_nothing_twice(
    world: World, replica: Replica
) -> None:
    """What stands on a record stays there; what is new goes where the mapping says now."""
    total = 0
    for number, per in enumerate(["window", "hour", "day", "period", "day", "window"]):
        await mapped(world, f", record_per: {per}, scale: 1/2")
        await told(world, replica, row(number, 3), row(number + 6, 4), aggregation="SUM")
        # Each window so far comes again with one more: a revision stays where the window is.
        for before in range(number + 1):
            await told(world, replica, row(before, 4 + number), aggregation="SUM")
        total = sum([4 + number] * (number + 1)) + 4 * (number + 1)
        rounded = (total + 1) // 2
        assert await world.total() == (rounded, rounded), per
    assert await world.states() == {"booked": 12}


PER = [
    ("hour", lambda second: second - second % 3600),
    ("day", lambda second: second - second % 86_400),
    ("period", lambda _: 0),
]


@pytest.mark.parametrize(("per", "bucket"), PER, ids=[name for name, _ in PER])
async def test_a_bucket_at_an_odd_anchor_stands_inside_its_period(
    world: World, replica: Replica, per: str, bucket: Any
) -> None:
    """The period began at 10:20:30: the first hour and day have a part before it."""
    anchor = datetime(2026, 3, 9, 10, 20, 30, tzinfo=UTC)
    await mapped(world, f", record_per: {per}")
    shows(world, item(period_start=anchor, period_end=anchor + timedelta(days=31)))
    await told(world, replica, *(row(hour, 1) for hour in range(10, 30)), aggregation="SUM")
    wanted = await world.wanted()
    start = int(anchor.timestamp())
    first = start + (2 if per == "period" else 1)
    expected: dict[int, int] = {}
    for hour in range(10, 30):
        second = max(bucket(at(hour)), first)
        expected[second] = expected.get(second, 0) + 1
    assert wanted == expected
    assert all(second > start for second in wanted)


@pytest.mark.parametrize("per", ["window", "hour", "day", "period"])
async def test_late_windows_of_a_bucket_are_carried_as_one_difference(
    world: World, per: str
) -> None:
    async with months_of(world) as months:
        await mapped(world, f", record_per: {per}, scale: 1/10")
        await months.tell(*(used(MARCH, hour, 14) for hour in range(10)))
        await months.begin(APRIL)
        await months.tell(*(used(MARCH, hour, 7) for hour in range(10, 20)))
        await months.tell(used(APRIL, 0, 10))
        assert await months.months() == {MARCH: Line(14), APRIL: Line(8)}
        await months.tell(*(used(MARCH, hour, 8) for hour in range(10, 20)))
        assert await months.months() == {MARCH: Line(14), APRIL: Line(9)}
        [carry] = await world.rows(
            "select r.timestamp from usage_records r join carries c on c.to_record_id = r.id "
            "group by 1"
        )
        assert carry["timestamp"] == int(APRIL.timestamp()) + 1


async def test_below_zero_nothing_is_billed_and_the_rest_lowers_what_comes(
    world: World, replica: Replica
) -> None:
    await mapped(world, ", scale: 1/2")
    seen = []
    for hour, value in enumerate([4, -9, 3, 6, -1]):
        await told(world, replica, row(hour, value), aggregation="SUM")
        rounded, wanted = await world.total()
        assert rounded == wanted
        assert all(quantity >= 0 for quantity in (await world.wanted()).values())
        seen.append(rounded)
        await sent(world)
    # 2, -2.5, -1, 2, 1.5: half up
    assert seen == [2, 0, 0, 2, 2]


ROUNDED = [
    ("half_even", [0, 2, 2, 2, 4]),  # 0.5, 1.5, 2, 2.5, 3.5
    ("half_up", [1, 2, 2, 3, 4]),
    ("up", [1, 2, 2, 3, 4]),
    ("down", [0, 1, 2, 2, 3]),
]


@pytest.mark.parametrize(("rounding", "totals"), ROUNDED, ids=[name for name, _ in ROUNDED])
async def test_the_running_total_is_rounded(
    world: World, replica: Replica, rounding: str, totals: list[int]
) -> None:
    await mapped(world, f", scale: 0.5, rounding: {rounding}")
    seen = []
    for hour, value in enumerate([1, 2, 1, 1, 2]):
        await told(world, replica, row(hour, value), aggregation="SUM")
        seen.append((await world.total())[1])
    assert seen == totals


async def test_a_split_meter_bills_two_items(world: World) -> None:
    """Each with its own scale, bucket and late usage; what matches neither takes the rest's."""
    async with months_of(world) as months:
        await world.apply(
            "meters: [{meter: tokens, price: price_1, groups: {model: gpt-4}, scale: 2}, "
            "{meter: tokens, price: price_2, record_per: day}]" + TWO_SUBJECTS
        )
        one, two = item(), item("si_2", price_id="price_2")
        shows(world, one, two)
        gpt4, other = {"groupBy": {"model": "gpt-4"}}, {"groupBy": {"model": "mini"}}
        await months.tell(used(MARCH, 5, 10, **gpt4), used(MARCH, 5, 4, **other), used(MARCH, 6, 1))
        assert await months.lines() == {("si_1", MARCH): Line(20), ("si_2", MARCH): Line(5)}
        world.clock.set(APRIL + 2 * HOUR)
        period: dict[str, Any] = {"period_start": APRIL, "period_end": APRIL + timedelta(days=30)}
        shows(world, item(**period), item("si_2", price_id="price_2", **period))
        await months.replica.read(["sub_1"])
        await months.tell(used(MARCH, 5, 11, **gpt4), used(MARCH, 5, 5, **other))
        assert await months.lines() == {
            ("si_1", MARCH): Line(20),
            ("si_1", APRIL): Line(2),
            ("si_2", MARCH): Line(5),
            ("si_2", APRIL): Line(1),
        }
        assert PERIOD_START == MARCH
