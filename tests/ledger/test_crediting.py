"""What was billed too much and credited by hand is settled: it is not set off once more."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from app.db import transaction
from app.ledger.crediting import Credited, credit
from tests.ledger.months import APRIL, MARCH, Line, Months, months_of, used
from tests.ledger.world import World


@pytest.fixture
async def months(world: World) -> AsyncIterator[Months]:
    """March, with an instance that carries forward."""
    async with months_of(world) as found:
        yield found


async def owed(months: Months) -> int:
    """March was billed 10, and 7 were used. The id of the record that owes 3."""
    await months.tell(used(MARCH, 5, 10))
    await months.begin(APRIL)
    await months.tell(used(MARCH, 5, 7))
    assert await months.months() == {MARCH: Line(10, -3)}
    [record] = await months.world.rows("select id from usage_records where state = 'held'")
    identifier: int = record["id"]
    return identifier


async def credited(months: Months, record: int) -> Credited | None:
    """An operator says that the credit note is written."""
    async with transaction(months.world.engine) as connection:
        done = await credit(connection, record, now=months.world.clock.now())
    await months.check()
    return done


async def test_what_was_credited_is_owed_no_more(months: Months) -> None:
    record = await owed(months)
    assert await credited(months, record) == Credited(record, 3)
    assert await months.held() == {}
    assert await months.months() == {MARCH: Line(10)}
    await months.tell(used(MARCH, 6, 20))
    await months.tell(used(MARCH, 5, 8))  # one more than was thought: billed, and nothing set off
    assert await months.months() == {MARCH: Line(10), APRIL: Line(21)}


async def test_a_further_correction_owes_the_difference_alone(months: Months) -> None:
    record = await owed(months)
    await credited(months, record)
    await months.tell(used(MARCH, 5, 6))
    assert await months.held() == {"credit_due": "1 unit billed too much"}


async def test_it_is_credited_once(months: Months) -> None:
    record = await owed(months)
    await credited(months, record)
    assert await credited(months, record) is None
    assert await credited(months, 10**9) is None
    [carry] = await months.world.rows("select * from carries")
    assert (carry["from_record_id"], carry["to_record_id"]) == (record, None)
    assert carry["quantity"] == -3


@pytest.mark.parametrize(
    "change",
    [
        {"reason": "period_closed"},
        {"reason": "outcome_in_doubt", "doubtful": True},
    ],
)
async def test_only_what_is_owed_can_be_credited(months: Months, change: dict[str, Any]) -> None:
    record = await owed(months)
    assigned = ", ".join(f"{name} = :{name}" for name in change)
    await months.world.run(
        f"update usage_records set {assigned} where id = :id",
        id=record,
        **change,
    )
    assert await credited(months, record) is None
