"""Which windows that are not booked belong to an item and a period."""

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.mapping.file import from_yaml, to_mappings
from tests.ledger.explainable import DAY, Asking, Written
from tests.mapping.stripe_side import HOUR, NOW, PERIOD_START, item


@pytest.fixture
def written(engine: AsyncEngine) -> Written:
    return Written(engine)


@pytest.fixture
async def asking(engine: AsyncEngine) -> AsyncIterator[Asking]:
    made = Asking(engine)
    async with made.stripe.client() as client:
        made.client = client
        yield made


MAPPED = """
meters:
  - {meter: tokens, price: price_1}
  - {meter: calls, price: price_2}
  - {meter: renamed, price: price_old}
subjects:
  - {subject: customer-1, subscription: sub_1, valid_to: 2026-03-20}
  - {subject: customer-1, subscription: sub_2, valid_from: 2026-03-20}
  - {subject: other, subscription: sub_2}
"""


async def test_what_waits_for_this_item_and_period_and_nothing_else(
    written: Written, asking: Asking
) -> None:
    await written.mappings.replace(to_mappings(from_yaml(MAPPED)), now=NOW)
    await written.snapshot(item("si_1"), item("si_2", price_id="price_2"))
    await written.snapshot(item("si_3"), name="sub_2")
    later = datetime.fromisoformat("2026-03-21T00:00:00Z")
    belongs = {
        await written.window(DAY, 1): True,
        await written.window(DAY, 1, meter="unheard_of"): False,
        await written.window(DAY, 1, meter="renamed", reason="item_not_found"): False,
        await written.window(DAY + HOUR, 1, state="pending", reason=None): True,
        # Ends with the period: its record stands one second before.
        await written.window(PERIOD_START, 1): True,
    }
    for elsewhere in (
        written.window(DAY, 1, meter="calls"),  # the other item's price
        written.window(later, 1),  # by then the subject is on another subscription
        written.window(DAY, 1, subject="other"),
        written.window(PERIOD_START - HOUR, 1),  # of the period before
        written.window(DAY + 5 * HOUR, 1, state="covered", reason="in_parts"),
    ):
        await elsewhere
    found = await asking.item(PERIOD_START)
    assert {window.id: window.certain for window in found.period.waiting} == belongs
    assert found.period.waiting_in_all == 5
    assert found.period.head.id is None  # nothing was booked, and still it is found
    assert "1 window that may belong here is parked (item_not_found)" in found.sentence
    assert "1 window is still to be booked." in found.sentence
    # The last second of the subject's mapping counts, and the first of the next does not.
    elsewhere_ids = {w.id for w in (await asking.item(later, name="si_3")).period.waiting}
    assert elsewhere_ids.isdisjoint(belongs)
    assert len(elsewhere_ids) == 2


async def test_a_meter_split_by_group_waits_for_its_own_item(
    written: Written, asking: Asking
) -> None:
    await written.mappings.replace(
        to_mappings(
            from_yaml(
                """
                meters:
                  - {meter: tokens, groups: {model: gpt-4}, price: price_2}
                  - {meter: tokens, price: price_1}
                subjects: [{subject: customer-1, subscription: sub_1}]
                """
            )
        ),
        now=NOW,
    )
    await written.snapshot(item("si_1"), item("si_2", price_id="price_2"))
    gpt_4 = await written.window(DAY, 1, group_by={"model": "gpt-4"})
    rest = await written.window(DAY, 1, group_by={"model": "gpt-3"})
    for name, window in (("si_1", rest), ("si_2", gpt_4)):
        found = await asking.item(name=name)
        assert [(w.id, w.certain) for w in found.period.waiting] == [(window, True)]


async def test_a_parked_revision_of_a_booked_window_waits_and_stands(
    written: Written, asking: Asking
) -> None:
    record = await written.record(await written.period(rounded_total=9), DAY, 9)
    window = await written.window(
        DAY, 1, record, state="parked", reason="needs_approval", revision=2, amount_numerator=9
    )
    found = await asking.item()
    assert [w.id for w in found.period.waiting] == [window]
    assert [w.id for w in found.period.records[0].windows] == [window]
    assert "(needs_approval)" in found.sentence


async def test_what_a_mapping_moves_is_told_at_its_old_place_until_it_is_booked(
    written: Written, asking: Asking
) -> None:
    old = await written.record(await written.period(), DAY, 9, state="due")
    moving: dict[str, Any] = {"state": "pending", "reason": "moving", "moving_from": old}
    marked = await written.window(DAY, 9, old, **moving)
    left = await written.window(DAY + HOUR, 4, **moving)
    found = await asking.item()
    assert {w.id for w in found.period.waiting} == {marked, left}
    assert [w.id for w in found.period.records[0].windows] == [marked]
    assert "2 windows are on the way to another place, as the mappings say now." in found.sentence
