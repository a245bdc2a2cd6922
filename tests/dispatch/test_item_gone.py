"""A plan change at Stripe between booking and sending: the item of a booked record is gone."""

import pytest
from sqlalchemy.engine import URL

from tests.dispatch.bridging import AT, bridge, deliver, drained
from tests.dispatch.ledger import SeededLedger
from tests.dispatch.stripe_side import PRICE, StripeSide
from tests.dispatch.workers import until


@pytest.mark.parametrize("gone", [True, False], ids=["404", "no longer active"])
async def test_usage_moves_to_the_item_that_took_its_place(
    fresh_url: URL, stripe: StripeSide, ledger: SeededLedger, gone: bool
) -> None:
    async with bridge(fresh_url, stripe) as built:
        await deliver(built, 5)
        await until(lambda: drained(built), "the first window is billed")
        stripe.control("POST", "/subscription_items/si_1/replace", {"id": "si_1b", "gone": gone})
        await deliver(built, 7, hour=1)
        await deliver(built, 11, hour=2)
        await until(lambda: drained(built), "the others are billed on the new item")
        summary = await built.status.summary()
    assert stripe.standing() == {"si_1": {AT: 5}, "si_1b": {AT + 3600: 7, AT + 7200: 11}}
    assert (summary.parked, summary.held) == ({}, {})
    outcomes = [attempt["outcome"] for attempt in await ledger.attempts(1)]
    assert outcomes[0] == "succeeded"
    assert "resolved" in outcomes


async def test_a_correction_of_what_stands_on_the_old_item_is_held_and_shown(
    fresh_url: URL, stripe: StripeSide
) -> None:
    """Moving it would bill the first 5 twice: once where they stand, once on the new item."""
    async with bridge(fresh_url, stripe) as built:
        await deliver(built, 5)
        await until(lambda: drained(built), "the first window is billed")
        stripe.control("POST", "/subscription_items/si_1/replace", {"id": "si_1b"})
        await deliver(built, 7)
        await until(lambda: drained(built), "what can be sent is")
        summary = await built.status.summary()
    assert stripe.standing() == {"si_1": {AT: 5}}
    assert summary.held == {"item_gone": 1}


async def test_without_a_new_item_the_usage_is_parked_and_released_by_the_next_one(
    fresh_url: URL, stripe: StripeSide
) -> None:
    async with bridge(fresh_url, stripe) as built:
        await deliver(built, 5)
        await until(lambda: drained(built), "the first window is billed")
        stripe.control("POST", "/subscription_items/si_1/end")
        await deliver(built, 7, hour=1)
        await until(lambda: drained(built), "what can be sent is")
        assert (await built.status.summary()).parked == {"item_not_found": 1}
        stripe.control("POST", "/subscriptions/sub_1/items", {"id": "si_1b", "price": PRICE})
        workshop = built.workshop
        assert workshop is not None
        await workshop.snapshots.refresh("sub_1")
        await until(lambda: drained(built), "it is billed on the new item")
        assert (await built.status.summary()).parked == {}
    assert stripe.standing() == {"si_1": {AT: 5}, "si_1b": {AT + 3600: 7}}


async def test_an_item_that_is_still_there_is_held_not_sent_round_in_circles(
    fresh_url: URL, stripe: StripeSide
) -> None:
    """Stripe says 404 once while the subscription still shows the item: somebody must look."""
    async with bridge(fresh_url, stripe) as built:
        stripe.inject(
            "status",
            status=404,
            error={"type": "invalid_request_error", "code": "resource_missing"},
        )
        await deliver(built, 5)
        await until(lambda: drained(built), "it is held")
        assert (await built.status.summary()).held == {"item_gone": 1}
        now = built.clock.now()
        await built.status.release_records(reason="item_gone", ids=[], now=now)
        await until(lambda: drained(built), "it is sent")
    assert stripe.standing() == {"si_1": {AT: 5}}


async def test_what_may_stand_on_the_old_item_is_not_billed_on_the_new_one(
    fresh_url: URL, stripe: StripeSide
) -> None:
    """Stripe executes the POST and stores a 500 for it; its key is given up; the item goes.

    The refusal of the new key is definite, but says nothing of the old one: to bill the usage on
    the new item would bill it twice.
    """
    match = {"operation": "create_usage_record"}
    async with bridge(fresh_url, stripe) as built:
        stripe.control(
            "POST",
            "/faults",
            {"kind": "stored_error", "executed": True, "match": match, "times": 1},
        )
        # Keeps the second key from being answered until the item is gone.
        stripe.control(
            "POST", "/faults", {"kind": "lock_timeout", "match": match, "skip": 2, "times": 1000}
        )
        await deliver(built, 38)

        async def given_up() -> bool:
            rows = await SeededLedger(built.engine).rows("select doubtful from usage_records")
            return [row["doubtful"] for row in rows] == [True]

        await until(given_up, "the first key is given up")
        stripe.control("POST", "/subscription_items/si_1/replace", {"id": "si_1b", "gone": True})
        stripe.control("DELETE", "/faults")
        await until(lambda: drained(built), "the record is decided on")
        summary = await built.status.summary()
    assert stripe.standing() == {"si_1": {AT: 38}}
    assert summary.held == {"outcome_in_doubt": 1}
