"""Whatever comes late, in whatever order: what is billed, less what is owed, is what was used."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from app.ledger.carrying import carried_quantity, carry_all
from app.ledger.records import RecordKey, UsageRecord
from tests.ledger.months import APRIL, JUNE, MARCH, MAY, Months, months_of, used
from tests.ledger.world import World
from tests.mapping.stripe_side import HOUR

units = st.integers(0, 1_000)
MONTHS = (MARCH, APRIL, MAY)


def late(number: int, booked: int, carried: int, reported: int, *, doubtful: bool) -> UsageRecord:
    """A late record of a closed period."""
    return UsageRecord(
        id=number,
        key=RecordKey("si_1", number),
        item_period_id=1,
        wanted=booked + carried,
        reported=reported,
        revision=1,
        svix_id=f"msg_{number}",
        state="late",
        due_at=datetime(2026, 4, 1, tzinfo=UTC),
        unsent_since=None,
        failures=0,
        key_suffix=0,
        unsettled=False,
        doubtful=doubtful,
        carried=carried,
    )


records = st.lists(
    st.tuples(units, st.integers(-1_000, 0), units, st.booleans()), min_size=1, max_size=8
)


@given(wanted=st.integers(-1_000, 1_000), reported=units, there=units)
def test_what_is_carried_is_the_difference_down_to_nothing(
    wanted: int, reported: int, there: int
) -> None:
    quantity = carried_quantity(wanted, reported, there)
    assert there + quantity >= 0
    owed = reported - (wanted - quantity)
    assert owed >= 0  # what is wanted beyond what Stripe took is always carried
    assert owed == 0 or there + quantity == 0


@given(found=records, there=units)
def test_units_are_moved_and_neither_made_nor_lost(
    found: list[tuple[int, int, int, bool]], there: int
) -> None:
    before = [
        late(number, booked, carried, reported, doubtful=doubtful)
        for number, (booked, carried, reported, doubtful) in enumerate(found)
    ]
    homes, carries = carry_all(before, there)
    moved = sum(carry.quantity for carry in carries)
    assert there + moved >= 0
    assert sum(r.wanted for r in homes) + moved == sum(r.wanted for r in before)
    assert sorted((r.id, r.booked) for r in homes) == [(r.id, r.booked) for r in before]
    by_id = {record.id: record for record in before}
    for home in homes:
        if home.doubtful:
            assert (home.state, home.reason) == ("held", "outcome_in_doubt")
            assert home.wanted == by_id[home.id].wanted
        elif home.state == "held":
            assert home.reason == "credit_due"
            assert home.wanted < home.reported
        else:
            assert home.wanted == home.reported
    owed = sum(r.reported - r.wanted for r in homes if r.reason == "credit_due")
    assert owed == 0 or there + moved == 0  # nothing is owed while there is something to take


@dataclass(frozen=True)
class Told:
    """One delivery: a window of a month, and whether all is settled after it."""

    month: int
    hour: int
    value: int
    settled: bool


told = st.builds(
    Told, st.integers(0, 2), st.integers(0, 2), st.sampled_from([0, 1, 3, 7, 20]), st.booleans()
)
# What is told in each of four months, of the months until then.
scripts = st.lists(st.lists(told, max_size=6), min_size=4, max_size=4)


@pytest.fixture
async def months(world: World) -> AsyncIterator[Months]:
    """An instance that carries late usage forward."""
    async with months_of(world) as made:
        yield made


# Shrinking takes minutes here, and a failing example is small enough as it is found.
@pytest.mark.timeout(400)
@settings(
    max_examples=15,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(script=scripts)
async def test_over_three_periods_what_is_billed_less_what_is_owed_is_what_was_used(
    months: Months, script: list[list[Told]]
) -> None:
    world = months.world
    await world.start_over()
    world.stripe.show("sub_1")
    await world.run("delete from subscription_snapshots")
    months.replica.snapshots.forget_all()
    facts: dict[tuple[int, int], int] = {}
    for number, month in enumerate((MARCH, APRIL, MAY, JUNE)):
        await months.begin(month, after=24 * HOUR)
        for entry in script[number]:
            if entry.month > number:
                continue  # that month has not begun
            facts[entry.month, entry.hour] = entry.value
            await world.deliver(used(MONTHS[entry.month], entry.hour, entry.value))
            await months.replica.book()
            await months.check()
            if entry.settled:
                await months.settle()
        await months.replica.carrier.carry()
        await months.check()
    await months.settle()
    lines = (await months.lines()).values()
    assert sum(line.billed + line.held for line in lines) == sum(facts.values())
    assert all(line.held <= 0 for line in lines)
    assert set(await months.held()) <= {"credit_due"}
