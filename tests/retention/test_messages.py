"""Raw bodies, deliveries and attempts go when they are old; a resend is still known."""

from datetime import timedelta

import pytest

from app.inbox.delivery import Delivery, Receipt
from app.inbox.repository import DeliveryRepository
from app.ledger.status import StatusRepository
from app.retention.terms import Terms
from tests.ledger.months import APRIL, JUNE, MARCH, MAY, Line, Months, used
from tests.mapping.stripe_side import NOW
from tests.retention.pruned import KEPT, counts, prune, pruner, windows_of

RAW = Terms(None, KEPT)


async def bodies(months: Months) -> dict[str, bool]:
    """Whether each delivery still has its body."""
    rows = await months.world.rows("select svix_id, body <> '' as kept from deliveries order by id")
    return {row["svix_id"]: row["kept"] for row in rows}


async def test_an_old_body_goes_and_its_resend_is_still_known(months: Months) -> None:
    inbox = DeliveryRepository(months.world.engine)
    await months.tell(used(MARCH, 5, 3), svix_id="msg_old")
    await months.begin(JUNE)
    await months.world.deliver(used(JUNE, 0, 1), svix_id="msg_new")
    await months.world.run(
        "update deliveries set received_at = :now where svix_id = 'msg_new'", now=JUNE
    )
    [kept] = await months.world.rows("select body from deliveries where svix_id = 'msg_old'")
    assert dict(await prune(months, RAW)) == {"bodies": 1}
    assert await bodies(months) == {"msg_old": False, "msg_new": True}
    assert not await prune(months, RAW)
    for body, receipt in ((kept["body"], Receipt.DUPLICATE), (b"{}", Receipt.CONFLICT)):
        resent = Delivery.of("msg_old", body, message_at=NOW, received_at=JUNE)
        assert await inbox.store([resent]) == {"msg_old": receipt}


@pytest.mark.parametrize("state", ["received", "failed"])
async def test_what_is_still_to_be_booked_keeps_its_body(months: Months, state: str) -> None:
    await months.world.deliver(used(MARCH, 5, 3), body=b"{}" if state == "failed" else None)
    if state == "failed":
        await months.replica.book()
    assert await months.world.deliveries() == {state: 1}
    months.world.clock.set(JUNE)
    assert not await prune(months, Terms(KEPT, KEPT))
    await StatusRepository(months.world.engine).release_deliveries()
    assert await months.world.deliveries() == {"received": 1}
    assert list((await bodies(months)).values()) == [True]


async def test_what_was_rejected_goes_as_a_whole_and_may_come_again(months: Months) -> None:
    inbox = DeliveryRepository(months.world.engine)
    bad = Delivery.of("msg_1", b"{}", message_at=NOW, received_at=NOW, faults=())
    assert await inbox.store([bad]) == {"msg_1": Receipt.REJECTED}
    months.world.clock.set(JUNE)
    assert dict(await prune(months, RAW)) == {"deliveries": 1}
    good = Delivery.of("msg_1", b"{}", message_at=NOW, received_at=JUNE)
    assert await inbox.store([good]) == {"msg_1": Receipt.ACCEPTED}


async def test_an_hourly_sweep_goes_on_where_it_was_and_begins_anew_once_a_day(
    months: Months,
) -> None:
    for n in range(5):
        await months.world.deliver(used(MARCH, n, 1), svix_id=f"msg_{n}")
    await months.replica.book()
    await months.world.run("update deliveries set state = 'failed' where svix_id = 'msg_1'")
    months.world.clock.set(JUNE)
    one = pruner(months, RAW, rows_at_once=2)
    assert dict(await one.sweep()) == {"bodies": 4}
    await months.world.run("update deliveries set state = 'booked', body = 'x'")
    months.world.clock.advance(timedelta(hours=1))
    assert dict(await one.sweep()) == {"bodies": 1}
    assert [name for name, kept in (await bodies(months)).items() if not kept] == ["msg_4"]
    months.world.clock.advance(timedelta(hours=23))
    assert dict(await one.sweep()) == {"bodies": 4}


async def test_a_delivery_stays_as_long_as_anything_that_it_told(months: Months) -> None:
    await months.tell(used(MARCH, 5, 3), svix_id="msg_1")
    await months.tell(used(MARCH, 6, 4), used(APRIL, 0, 5), svix_id="msg_2")
    await months.tell(used(MARCH, 5, 9), svix_id="msg_0", sent=-5)  # older: history of the first
    await months.begin(APRIL)
    await months.settle()
    for month in (MAY, JUNE):
        await months.begin(month)
    assert dict(await prune(months)) == {
        "item_periods": 1,
        "usage_windows": 2,
        "usage_records": 2,
        "window_revisions": 1,
        "deliveries": 2,
    }
    assert list(await bodies(months)) == ["msg_2"]
    # Its other window is April's, and so is told by it still.
    assert await months.months() == {APRIL: Line(5)}


async def test_attempts_go_when_their_record_is_settled_and_its_period_over(
    months: Months,
) -> None:
    for month in (MARCH, APRIL):
        await months.begin(month)
        await months.tell(used(month, 0, 3))
    await months.world.run(
        """
        insert into attempts (usage_record_id, idempotency_key, action, quantity, started_at,
                              finished_at, outcome, worker)
        select id, 'k', 'set', 3, :march, :march, 'succeeded', 'w' from usage_records
        """,
        march=MARCH,
    )
    terms = Terms(None, timedelta(days=1))
    months.world.clock.set(APRIL + timedelta(days=10))
    assert (await prune(months, terms))["attempts"] == 1
    months.world.clock.set(MAY + timedelta(days=1))
    await months.world.run("update usage_records set state = 'held', reason = 'item_gone'")
    assert not await prune(months, terms)
    await months.world.run("update usage_records set state = 'reported', reason = null")
    assert dict(await prune(months, terms)) == {"attempts": 1}
    assert "attempts" not in await counts(months)


async def test_what_is_covered_goes_after_what_counts_in_its_place(months: Months) -> None:
    """A divided window whose parts lie in two billing periods, as booking leaves it."""
    over = {
        "windowStart": (APRIL - timedelta(hours=2)).isoformat(),
        "windowEnd": (APRIL + timedelta(hours=2)).isoformat(),
    }
    await months.tell(used(MARCH, 700, 1))
    await months.begin(APRIL)
    await months.tell(used(APRIL, 10, 1), {"value": "7", **over})
    await months.world.run(
        """
        with whole as (
            update usage_windows set state = 'covered', reason = 'in_parts', usage_record_id = null
            where value = 7 returning *)
        update usage_windows w set source = 'part', part_of = whole.id,
            group_key = (
                select string_agg(set_byte('\\x00', 0, get_byte(whole.group_key, n)
                    # get_byte(sha256('part:'), n)), '' order by n)
                from generate_series(0, 15) n)
        from whole where w.value = 1
        """
    )
    for month in (MAY, JUNE):
        await months.begin(month)
    assert (await prune(months))["usage_windows"] == 1  # the part of March
    months.world.clock.set(JUNE + 2 * KEPT)
    # Then that of April, and with it the whole one.
    assert (await prune(months))["usage_windows"] == 2
    assert await windows_of(months) == []
    [series] = await months.world.rows("select pruned_until from usage_series")
    assert series["pruned_until"] == APRIL + timedelta(hours=11)
