"""Maxima of many windows: found among all of them, without a look at all of them."""

from fractions import Fraction

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from app.db import transaction
from app.ledger import recording
from app.ledger.foremost import StandingWindow, foremost_on
from app.ledger.quantity import round_total
from app.mapping.models import Combination, Rounding
from tests.ledger.world import Replica, World, row
from tests.mapping.stripe_side import item, snapshot

THIRDS = st.builds(
    Fraction, st.integers(-(10**30), 10**30), st.sampled_from((1, 2, 3, 7, 1000, 10**25 + 1))
)
NEAR = st.builds(
    lambda half, by, power: Fraction(half, 2) + Fraction(by, 3 * 10**power),
    st.integers(-6, 6),
    st.integers(-2, 2),
    st.integers(0, 40),
)


RECORD = """
    with period as (
        insert into item_periods (subscription, subscription_item, period_start, period_end,
            rounding, exact_numerator, exact_denominator, rounded_total, combination)
        values ('sub_1', 'si_1', '2026-03-01', '2026-04-01', 'half_up', 0, 1, 0, 'max')
        on conflict do nothing returning id)
    insert into usage_records (id, item_period_id, subscription, subscription_item, timestamp,
                               wanted_quantity, svix_id, state)
    overriding system value
    select 1, id, 'sub_1', 'si_1', 1, 0, 'msg_1', 'reported' from period
"""
WINDOWS = """
    insert into usage_windows (id, meter, subject, group_key, group_by, window_start, window_end,
        aggregation, value, svix_id, message_at, state, usage_record_id, amount_numerator,
        amount_denominator, scale_numerator, scale_denominator)
    overriding system value
    select id, 'm', id::text, '', '{}', '2026-03-02', '2026-03-03', 'MAX', 1, 'msg_1', '2026-03-03',
           'booked', 1, n::numeric, d::numeric, 1, 1
    from unnest(cast(:n as text[]), cast(:d as text[])) with ordinality as t (n, d, id)
"""


@given(amounts=st.lists(THIRDS | NEAR, min_size=1, max_size=6), data=st.data())
@settings(
    max_examples=25,
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
async def test_the_foremost_rounds_as_the_largest_does(
    world: World, amounts: list[Fraction], data: st.DataObject
) -> None:
    await world.run(RECORD)
    await world.run("delete from usage_windows")
    numerators = [str(amount.numerator) for amount in amounts]
    await world.run(WINDOWS, n=numerators, d=[str(amount.denominator) for amount in amounts])
    without = data.draw(st.sets(st.integers(1, len(amounts)), max_size=len(amounts) - 1))
    async with transaction(world.engine) as connection:
        [found] = await foremost_on(connection, [1], Combination.MAX, without=without)
    left = [a for number, a in enumerate(amounts, start=1) if number not in without]
    assert found.id not in without
    for rounding in Rounding:
        assert round_total(found.amount, rounding) == round_total(max(left), rounding)


async def test_a_maximum_is_that_of_all_its_windows_after_every_revision(
    world: World, replica: Replica
) -> None:
    """Up, down, below the others, several at once, from the top and from beneath it."""
    await world.apply(
        "meters: [{meter: tokens, price: price_1, record_per: period, rounding: half_even}]\n"
        "subjects: [{subject: customer-1, subscription: sub_1}]"
    )
    world.stripe.held["sub_1"] = snapshot(item(aggregate_usage="max"))
    values: dict[int, Fraction] = {}
    steps = [
        {0: "1", 1: "2.5", 2: "2.4"},
        {1: "2.4"},
        {0: "7"},
        {0: "7.5"},
        {0: "0"},
        {1: "9", 2: "3"},
        {1: "-1", 3: "4"},
        {3: "1", 2: "1"},
        {4: "6", 5: "6.1"},
        {5: "2"},
        {4: "-5", 5: "-5"},
        {0: "-1", 1: "-1", 2: "-1", 3: "-1"},
        {6: "0.5"},
        {6: "0.6", 0: "0.7"},
    ]
    for step in steps:
        await world.deliver(*(row(hour, value) for hour, value in step.items()), aggregation="MAX")
        await replica.book()
        values |= {hour: Fraction(value) for hour, value in step.items()}
        wanted = await world.wanted()
        expected = round_total(max(values.values()), Rounding.HALF_EVEN)
        assert list(wanted.values()) == [expected], (step, values)


async def test_the_others_are_looked_at_only_where_the_maximum_may_come_down(
    world: World, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    async def counted(*arguments, **named):  # type: ignore[no-untyped-def]
        found: list[StandingWindow] = await foremost_on(*arguments, **named)
        asked.append(len(found))
        return found

    monkeypatch.setattr(recording, "foremost_on", counted)
    await world.apply(
        "meters: [{meter: tokens, price: price_1, record_per: period}]\n"
        "subjects: [{subject: customer-1, subscription: sub_1}]"
    )
    world.stripe.held["sub_1"] = snapshot(item(aggregate_usage="max"))
    for hour in range(8):
        await world.deliver(row(hour, 10 + hour), aggregation="MAX")
        await replica.book()
    await world.deliver(row(3, 5), aggregation="MAX")  # one that is not the largest
    await replica.book()
    assert asked == []
    await world.deliver(row(7, 5), aggregation="MAX")
    await replica.book()
    assert asked == [1]  # of seven
    assert list((await world.wanted()).values()) == [16]
