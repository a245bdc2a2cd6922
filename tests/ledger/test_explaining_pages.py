"""Bounds of a page, a subject's day, and one look at one state."""

from collections.abc import AsyncIterator

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.ledger import explaining, explaining_sql
from app.ledger.explained import ExplainedPeriod, SubjectDay
from app.ledger.explained_words import StripeLook
from app.ledger.explanation import PeriodExplanation
from app.ledger.selection import SubjectSelection
from tests.ledger.explainable import DAY, Asking, Written
from tests.mapping.stripe_side import HOUR, SECOND


@pytest.fixture
def written(engine: AsyncEngine) -> Written:
    return Written(engine)


@pytest.fixture
async def asking(engine: AsyncEngine) -> AsyncIterator[Asking]:
    made = Asking(engine)
    async with made.stripe.client() as client:
        made.client = client
        yield made


async def all_pages(asking: Asking) -> list[ExplainedPeriod]:
    pages: list[ExplainedPeriod] = []
    after = None
    while not pages or after is not None:
        pages.append((await asking.item(after=after)).period)
        after = pages[-1].next_after
        assert len(pages) < 50
    return pages


async def test_pages_hold_every_record_once_with_all_of_its_windows(
    written: Written, asking: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explaining, "BOUNDS", explaining.Bounds(records=3, windows=4))
    monkeypatch.setattr(explaining, "MOST_ATTEMPTS", 2)
    period = await written.period()
    sizes = [1, 2, 2, 7, 0, 0, 0, 0, 3]
    for hour, size in enumerate(sizes):
        record = await written.record(period, DAY + hour * HOUR, size)
        for number in range(size):
            await written.window(DAY + hour * HOUR, 1, record, subject=f"customer-{number}")
        for _ in range(hour):
            await written.attempt(record, size)
    pages = await all_pages(asking)
    records = [record for page in pages for record in page.records]
    assert [record.wanted_quantity for record in records] == sizes
    assert [record.windows_in_all for record in records] == sizes
    assert [len(record.windows) for record in records] == [1, 2, 2, 4, 0, 0, 0, 0, 3]
    assert [len(page.records) for page in pages] == [2, 1, 1, 3, 2]
    assert [r.attempts_in_all for r in records] == list(range(9))
    assert max(len(r.attempts) for r in records) == 2
    assert records[8].attempts[-1].idempotency_key > records[8].attempts[0].idempotency_key
    assert {page.selected for page in pages} == {9}


async def day_of(
    asking: Asking, subject: str = "customer-1"
) -> tuple[SubjectDay, tuple[PeriodExplanation, ...], str]:
    page = await asking.page(SubjectSelection(subject, DAY.date()))
    assert page.day is not None
    return page.day, page.periods, page.sentence


async def test_a_subject_on_a_day(written: Written, asking: Asking) -> None:
    march = await written.period()
    other = await written.period(subscription_item="si_2")
    ours = await written.record(march, DAY + HOUR - SECOND, 5)
    await written.window(DAY, 5, ours)
    await written.window(DAY, 3, ours, subject="customer-2")
    second = await written.record(other, DAY + HOUR - SECOND, 2, subscription_item="si_2")
    await written.window(DAY, 2, second, meter="calls")
    # Midnight ends the day; what ends a second later, or at the day's first moment, does not.
    last = await written.window(DAY + 23 * HOUR, 1)
    await written.window(DAY - HOUR, 1)
    await written.window(DAY + 23 * HOUR + SECOND, 1)
    covered = await written.window(DAY + HOUR, 1, state="covered", reason="in_parts")
    await written.record(march, DAY + 9 * HOUR, 100)
    day, periods, sentence = await day_of(asking)
    assert (day.windows_in_all, day.booked, day.periods_in_all) == (4, 2, 2)
    assert {window.id for window in day.aside} == {last, covered}
    assert [p.period.head.subscription_item for p in periods] == ["si_1", "si_2"]
    assert [r.id for r in periods[0].period.records] == [ours]
    assert len(periods[0].period.records[0].windows) == 2
    assert periods[0].period.totals.wanted == 105  # of the whole period
    assert sentence == (
        "customer-1, 9 Mar 2026 (UTC): 4 windows, 2 booked on 2 item periods. "
        "1 window is parked (no_meter_mapping): Apply a mapping for this meter. "
        "In place of 1 window others count."
    )
    assert asking.stripe.asked == [
        "/v1/subscription_items/si_1/usage_record_summaries",
        "/v1/subscription_items/si_2/usage_record_summaries",
    ]


async def test_a_subject_that_nobody_has_heard_of(asking: Asking) -> None:
    day, periods, sentence = await day_of(asking, "nobody")
    assert (day.windows_in_all, periods) == (0, ())
    assert sentence == "nobody, 9 Mar 2026 (UTC): OpenMeter told no window that ends on this day."


async def test_a_day_on_many_items_is_bounded_and_says_so(written: Written, asking: Asking) -> None:
    for number in range(12):
        name = f"si_{number:02}"
        period = await written.period(subscription_item=name)
        record = await written.record(period, DAY, 1, subscription_item=name)
        await written.window(DAY, 1, record, meter=f"meter_{number}")
    _, periods, sentence = await day_of(asking)
    assert len(periods) == 10
    assert "2 item periods more: ask by item." in sentence
    assert [p.stripe.look for p in periods].count(StripeLook.NOT_ASKED) == 7
    assert len(asking.stripe.asked) == 3


async def test_one_look_sees_one_state(written: Written, asking: Asking) -> None:
    period = await written.period()
    async with asking.repository._look() as connection:
        before = (await connection.execute(explaining_sql.TOTALS, {"period": period})).one()
        await written.record(period, DAY, 5)
        after = (await connection.execute(explaining_sql.TOTALS, {"period": period})).one()
    assert (before.records, after.records) == (0, 0)
    assert (await asking.item()).period.totals.records == 1
