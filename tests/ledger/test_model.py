"""Whatever arrives, in whatever order: the ledger equals a model that knows nothing of it.

The model: of each window the newest message counts; the period's total is the exact sum of these,
scaled and rounded once.
"""

import asyncio
import math
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.ledger.world import Replica, World, at, row

SCALES = {"1": Fraction(1), "1/3": Fraction(1, 3), "0.001": Fraction(1, 1000), "7": Fraction(7)}
GROUPS: list[dict[str, str] | None] = [None, {"model": "a"}, {"model": "b"}]


@dataclass(frozen=True)
class Sent:
    """One delivery: message time, subject, and values by (hour, group)."""

    time: int
    subject: str
    values: dict[tuple[int, int], str]

    def rows(self) -> list[dict[str, Any]]:
        return [
            row(hour, value, groupBy=GROUPS[group]) for (hour, group), value in self.values.items()
        ]


whole = st.integers(0, 40).map(str)
fractional = st.sampled_from(["0.1", "0.5", "0.30000000000000004", "1.7", "2.5", "1e-9"])
negative = st.sampled_from(["-1", "-2.5", "-30"])
windows = st.tuples(st.integers(0, 3), st.integers(0, len(GROUPS) - 1))


def deliveries(values: st.SearchStrategy[str]) -> st.SearchStrategy[list[Sent]]:
    """In order of arrival, which is not that of their times."""
    return st.lists(
        st.builds(
            Sent,
            st.integers(0, 50),
            st.sampled_from(["customer-1", "customer-2"]),
            st.dictionaries(windows, values, min_size=1, max_size=6),
        ),
        min_size=1,
        max_size=8,
        unique_by=lambda sent: sent.time,
    )


def newest(sent: list[Sent]) -> dict[tuple[str, int, int], Fraction]:
    """The value of each window by the newest message."""
    found: dict[tuple[str, int, int], Fraction] = {}
    for delivery in sorted(sent, key=lambda d: d.time):
        for (hour, group), value in delivery.values.items():
            # No group and a group of none are different windows; both are here as they are sent.
            found[delivery.subject, hour, group] = Fraction(value)
    return found


def half_up(total: Fraction) -> int:
    return max(0, math.floor(total + Fraction(1, 2)))


@pytest.fixture
async def pair(world: World) -> AsyncIterator[tuple[Replica, Replica]]:
    """Two replicas, each with caches and connections of its own."""
    async with world.replica() as one, world.replica() as other:
        yield one, other


async def book_both(pair: tuple[Replica, Replica]) -> None:
    await asyncio.gather(*(replica.book() for replica in pair))
    await pair[0].book()


async def check(
    world: World, pair: tuple[Replica, Replica], scale: str, sent: list[Sent], every: int
) -> None:
    """Deliver, book after every so many deliveries on both replicas at once, and compare."""
    await world.start_over()
    await world.apply(
        f"""
        meters: [{{meter: tokens, price: price_1, scale: {scale}}}]
        subjects: [{{subject: customer-2, subscription: sub_1}}]
        """
    )
    for number, delivery in enumerate(sent):
        svix_id = f"msg_{delivery.time:03}"
        for _ in range(2):  # the same message twice
            await world.deliver(
                *delivery.rows(), subject=delivery.subject, sent=delivery.time, svix_id=svix_id
            )
        if number % every == 0:
            await book_both(pair)
    await book_both(pair)
    facts = newest(sent)
    exact = sum(facts.values(), Fraction(0)) * SCALES[scale]
    wanted = await world.wanted()
    assert await world.states() == {"booked": len(facts)}
    assert sum(wanted.values()) == half_up(exact)
    assert await world.total() == (half_up(exact), half_up(exact))
    assert all(quantity >= 0 for quantity in wanted.values())
    if all(value.isdecimal() for d in sent for value in d.values.values()) and scale in ("1", "7"):
        own: dict[int, int] = defaultdict(int)
        for (_, hour, _), value in facts.items():
            own[at(hour)] += int(value * SCALES[scale])
        assert wanted == own


# The database of a test serves all its examples, each of which starts over. A failing example is
# small enough as it is found: shrinking it takes minutes here.
thorough = settings(
    max_examples=12,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@thorough
@given(
    sent=deliveries(st.one_of(whole, fractional, negative)),
    scale=st.sampled_from(sorted(SCALES)),
    every=st.integers(1, 4),
)
async def test_the_ledger_equals_the_model(
    world: World, pair: tuple[Replica, Replica], sent: list[Sent], scale: str, every: int
) -> None:
    await check(world, pair, scale, sent, every)


@thorough
@given(sent=deliveries(whole), scale=st.sampled_from(["1", "7"]), every=st.integers(1, 4))
async def test_with_whole_values_each_record_is_the_sum_of_its_windows(
    world: World, pair: tuple[Replica, Replica], sent: list[Sent], scale: str, every: int
) -> None:
    await check(world, pair, scale, sent, every)


async def test_a_thousand_fractions_are_neither_lost_nor_doubled(
    world: World, pair: tuple[Replica, Replica]
) -> None:
    """A thousand times 0.001 is 1; rounded one by one it would be nothing."""
    await world.apply("meters: [{meter: tokens, price: price_1, scale: 0.001}]")
    for batch in range(10):
        await world.deliver(*(row(n % 24, 1, groupBy={"n": f"{batch}.{n}"}) for n in range(100)))
    await book_both(pair)
    assert await world.total() == (1, 1)
