"""From an item and a period down to the webhooks and attempts behind it."""

from collections.abc import AsyncIterator
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app import tables
from app.errors import NotFound
from app.ledger.explained_words import PeriodStatus, StripeLook
from app.ledger.selection import ItemSelection
from tests.ledger.explainable import DAY, Asking, Written
from tests.ledger.world import Replica, World, at, row
from tests.mapping.stripe_side import HOUR, NOW, PERIOD_END, PERIOD_START, SECOND, item

APRIL = PERIOD_END + timedelta(days=2)


@pytest.fixture
def written(engine: AsyncEngine) -> Written:
    return Written(engine)


@pytest.fixture
async def asking(engine: AsyncEngine) -> AsyncIterator[Asking]:
    made = Asking(engine)
    async with made.stripe.client() as client:
        made.client = client
        yield made


async def test_a_plain_line(world: World, replica: Replica, asking: Asking) -> None:
    first = await world.deliver(row(0, 5))
    await world.deliver(row(1, 7))
    await replica.book()
    await world.run(
        "update usage_records set reported_quantity = wanted_quantity, state = 'reported', "
        "due_at = null"
    )
    asking.stripe.totals = {PERIOD_START: 12}
    found = await asking.item()
    assert found.sentence == (
        "price_1 on sub_1 (si_1), 1 Mar 2026 00:00 to 1 Apr 2026 00:00 UTC: 12 units are wanted, "
        "12 reported, Stripe says 12. Everything from OpenMeter is billed."
    )
    assert found.status is PeriodStatus.OPEN
    totals = found.period.totals
    assert (totals.exact, totals.rounded, totals.wanted) == (Fraction(12), 12, 12)
    assert totals.reported == 12
    assert [record.timestamp for record in found.period.records] == [at(0), at(1)]
    [window] = found.period.records[0].windows
    assert (window.svix_id, window.source) == (first, "webhook")
    assert (window.value, window.amount) == (Decimal(5), Fraction(5))
    assert (found.period.selected, found.period.next_after) == (2, None)


async def test_groups_on_one_record_and_fractions(
    unmapped: World, replica: Replica, asking: Asking
) -> None:
    await unmapped.apply(
        """
        meters: [{meter: tokens, price: price_1, scale: 1/3, rounding: up}]
        subjects: [{subject: customer-1, subscription: sub_1}]
        """
    )
    await unmapped.deliver(
        row(0, 5, groupBy={"model": "gpt-4"}), row(0, "2.5", groupBy={"model": "gpt-3"})
    )
    await replica.book()
    found = await asking.item()
    assert (found.period.totals.exact, found.period.totals.rounded) == (Fraction(5, 2), 3)
    assert found.period.head.rounding == "up"
    [record] = found.period.records
    assert {(w.group_by["model"], w.amount, w.scale) for w in record.windows} == {
        ("gpt-4", Fraction(5, 3), Fraction(1, 3)),
        ("gpt-3", Fraction(5, 6), Fraction(1, 3)),
    }


async def test_the_history_of_a_window(written: Written, asking: Asking) -> None:
    record = await written.record(await written.period(), DAY + HOUR - SECOND, 3)
    window = await written.window(DAY, 3, record, revision=2)
    for value, verdict in ((5, "superseded"), (4, "older")):
        await written.add(
            tables.window_revisions,
            usage_window_id=window,
            value=value,
            aggregation="SUM",
            source="webhook",
            svix_id=f"msg_{verdict}",
            message_at=DAY,
            verdict=verdict,
            kept_at=DAY,
        )
    found = await asking.item()
    [shown] = found.period.records[0].windows
    assert (shown.revision, shown.revisions_in_all) == (2, 2)
    assert [(r.value, r.verdict, r.svix_id) for r in shown.revisions] == [
        (Decimal(5), "superseded", "msg_superseded"),
        (Decimal(4), "older", "msg_older"),
    ]


async def carried(written: Written) -> None:
    """March closed with 10 of its 12 units; 2 went to April, which has 30 of its own."""
    march = await written.period(closed_at=PERIOD_END + HOUR, exact_numerator=12, rounded_total=12)
    april = await written.period(
        period_start=PERIOD_END,
        period_end=PERIOD_END + timedelta(days=30),
        exact_numerator=30,
        rounded_total=30,
    )
    home = await written.record(march, DAY + HOUR - SECOND, 10, carried_quantity=-2)
    await written.window(DAY, 12, home)
    there = await written.record(april, PERIOD_END + SECOND, 2, carried_quantity=2)
    own = await written.record(april, PERIOD_END + HOUR, 30)
    await written.window(PERIOD_END, 30, own)
    await written.carry(home, there, 3)
    await written.carry(home, there, -1)


async def test_a_carry_out_of_a_closed_period(written: Written, asking: Asking) -> None:
    await carried(written)
    asking.stripe.totals = {PERIOD_END: 32, PERIOD_START: 10}
    found = await asking.item(DAY, now=APRIL)
    assert found.status is PeriodStatus.CLOSED
    totals = found.period.totals
    assert (totals.rounded, totals.carried_out, totals.carried_in, totals.wanted) == (12, 2, 0, 10)
    assert "Stripe says 10." in found.sentence
    assert "2 units came after Stripe had closed the period" in found.sentence
    assert found.sentence.endswith("Everything from OpenMeter is billed.")
    assert [(c.quantity, c.svix_id) for c in found.period.carries] == [
        (3, "msg_late"),
        (-1, "msg_late"),
    ]
    destination = found.period.carries[0].destination
    assert destination is not None
    assert destination.period_start == PERIOD_END


async def test_a_carry_into_the_current_period(written: Written, asking: Asking) -> None:
    await carried(written)
    asking.stripe.totals = {PERIOD_END: 32, PERIOD_START: 10}
    found = await asking.item(APRIL, now=APRIL)
    assert found.status is PeriodStatus.OPEN
    totals = found.period.totals
    assert (totals.rounded, totals.carried_in, totals.carried_out, totals.wanted) == (30, 2, 0, 32)
    assert "2 units of earlier periods are part of this." in found.sentence
    assert found.period.carries[0].origin.timestamp == at(0)
    assert [r.carried_quantity for r in found.period.records] == [2, 0]


async def test_held_records_say_how_many_units_and_what_to_do(
    written: Written, asking: Asking
) -> None:
    period = await written.period(late_policy="hold", closed_at=PERIOD_END)
    refused = await written.record(
        period, DAY, 5, state="held", reason="item_gone", reported_quantity=2, detail="Stripe: gone"
    )
    await written.record(period, DAY + HOUR, 4, state="held", reason="item_gone")
    await written.record(
        period, DAY + 2 * HOUR, 1, state="held", reason="item_gone", reported_quantity=3
    )
    for status, outcome, problem in (
        (400, "resolved", "item_no_longer_active"),
        (400, "held", "x"),
    ):
        await written.attempt(
            refused,
            5,
            outcome=outcome,
            http_status=status,
            problem=problem,
            message="the item is gone",
        )
    asking.stripe.totals = {PERIOD_START: 5}
    found = await asking.item()
    assert "7 units could not be billed (item_gone): The subscription item" in found.sentence
    assert "2 units too many stand at Stripe (item_gone)" in found.sentence
    assert "Everything" not in found.sentence
    record = found.period.records[0]
    assert (record.state, record.reason, record.detail) == ("held", "item_gone", "Stripe: gone")
    assert [(a.outcome, a.http_status, a.message) for a in record.attempts] == [
        ("resolved", 400, "the item is gone"),
        ("held", 400, "the item is gone"),
    ]
    assert all(a.request_id for a in record.attempts)


@pytest.mark.parametrize("reason", ["a_reason_of_a_newer_version", "item_gone"])
async def test_a_reason_that_only_a_newer_replica_knows_is_shown(
    written: Written, asking: Asking, reason: str
) -> None:
    record = await written.record(await written.period(), DAY, 5, state="held", reason=reason)
    await written.window(DAY, 1, None, reason=reason, usage_record_id=record)
    found = await asking.item()
    assert f"5 units could not be billed ({reason})" in found.sentence
    assert f"1 window is parked ({reason})" in found.sentence


async def test_parts_flushes_and_slipped_spans(written: Written, asking: Asking) -> None:
    record = await written.record(await written.period(), PERIOD_END - SECOND, 7)
    whole = await written.window(
        PERIOD_END - HOUR / 2, 10, None, state="covered", reason="in_parts", svix_id="msg_whole"
    )
    part = await written.window(
        PERIOD_END - HOUR / 2,
        4,
        record,
        source="part",
        part_of=whole,
        window_end=PERIOD_END,
        svix_id="query-1",
    )
    flush = await written.window(PERIOD_END - HOUR, 2, record, source="flush")
    slipped = await written.window(
        PERIOD_END - 2 * HOUR, 1, record, slipped_from=DAY, slipped_to=DAY + HOUR
    )
    windows = {w.id: w for w in (await asking.item()).period.records[0].windows}
    assert set(windows) == {part, flush, slipped}
    assert windows[part].source == "part"
    of = windows[part].part_of
    assert of is not None
    assert (of.svix_id, of.value) == ("msg_whole", Decimal(10))
    assert windows[flush].source == "flush"
    assert (windows[slipped].slipped_from, windows[slipped].slipped_to) == (DAY, DAY + HOUR)


@pytest.mark.parametrize(("combination", "wanted"), [("sum", 14), ("max", 9), ("latest", 5)])
async def test_wanted_is_as_the_price_combines_records(
    written: Written, asking: Asking, combination: str, wanted: int
) -> None:
    period = await written.period(combination=combination, rounded_total=14, exact_numerator=14)
    await written.record(period, DAY, 9)
    await written.record(period, DAY + HOUR, 5)
    asking.stripe.totals = {PERIOD_START: 99}
    found = await asking.item()
    assert (found.period.totals.wanted, found.period.totals.reported) == (wanted, wanted)
    assert found.stripe.comparable is (combination == "sum")
    assert ("fewer" in found.sentence or "more than" in found.sentence) is (combination == "sum")
    assert (found.period.totals.exact is None) is (combination != "sum")


async def test_what_stripe_says_is_told_honestly(written: Written, asking: Asking) -> None:
    await written.record(await written.period(), DAY, 9)
    for totals, status, look, said in (
        ({PERIOD_START: 9}, 200, StripeLook.READ, "Stripe says 9. Everything"),
        ({PERIOD_START: 7}, 200, StripeLook.READ, "Stripe says 2 fewer than it confirmed: see"),
        ({PERIOD_END: 7}, 200, StripeLook.NO_SUMMARY, "Stripe shows no summary of this period"),
        ({}, 500, StripeLook.NOT_READABLE, "what Stripe says could not be read"),
    ):
        asking.stripe.totals, asking.stripe.status = totals, status
        found = await asking.item()
        assert found.stripe.look is look
        assert said in found.sentence
        assert ("is billed" in found.sentence) is (totals == {PERIOD_START: 9})
    asked = len(asking.stripe.asked)
    selection = ItemSelection("si_1", NOW)
    unasked = await asking.page(selection, ask=False)
    asking.client = None
    keyless = await asking.page(selection)
    for page in (unasked, keyless):
        assert page.periods[0].stripe.look is StripeLook.NOT_ASKED
        assert "Stripe was not asked. Everything from OpenMeter is reported" in page.sentence
    assert len(asking.stripe.asked) == asked


async def test_an_attempt_in_doubt_is_the_likely_cause_of_a_difference(
    written: Written, asking: Asking
) -> None:
    await written.record(
        await written.period(),
        DAY,
        9,
        state="held",
        reason="in_doubt",
        sent_key="key",
        sent_quantity=9,
        sent_at=DAY,
    )
    asking.stripe.totals = {PERIOD_START: 9}
    found = await asking.item()
    assert "9 more than it confirmed: such an attempt may have counted" in found.sentence
    assert "1 record is not known yet" in found.sentence


async def test_of_periods_that_overlap_the_later_one_counts(
    written: Written, asking: Asking
) -> None:
    await written.period(rounded_total=1)
    await written.period(period_start=DAY, period_end=PERIOD_END + timedelta(days=8))
    assert (await asking.item(DAY - SECOND)).period.head.period_start == PERIOD_START
    assert (await asking.item(DAY)).period.head.period_start == DAY


async def test_unknown_items_and_periods(written: Written, asking: Asking) -> None:
    await written.snapshot(item("si_1", previous_start=None))
    with pytest.raises(NotFound, match="Neither the ledger nor"):
        await asking.item(name="si_9")
    with pytest.raises(NotFound, match=r"It has: 1 Mar 2026 00:00 to 1 Apr 2026 00:00 UTC$"):
        await asking.item(PERIOD_END)
    assert "Nothing from OpenMeter belongs here" in (await asking.item()).sentence
