"""Usage that a mapping moves, at the sandbox: every old record is down before a new one goes up."""

from datetime import UTC, datetime
from fractions import Fraction

import pytest
from sqlalchemy.engine import URL

from app.bootstrap import Services
from app.errors import MovesBilledUsage
from app.mapping.file import from_yaml, to_mappings
from app.mapping.repository import AppliedMappings
from tests.dispatch.bridging import AT, HOUR, START, bridge, deliver, drained
from tests.dispatch.stripe_side import StripeSide
from tests.dispatch.workers import until

CUT = (START + HOUR).isoformat()
UPGRADED = f"""
subjects:
  - {{subject: customer-1, subscription: sub_1, valid_to: "{CUT}"}}
  - {{subject: customer-1, subscription: sub_2, valid_from: "{CUT}"}}
"""


async def apply(built: Services, file: str, *, force: bool = False) -> AppliedMappings:
    now = datetime.now(UTC)
    return await built.mappings.replace(to_mappings(from_yaml(file)), now=now, force=force)


async def billed(built: Services, *values: int) -> None:
    for hour, value in enumerate(values):
        await deliver(built, value, hour=hour)
    await until(lambda: drained(built), "the windows are billed")


async def test_down_first_then_up(fresh_url: URL, stripe: StripeSide) -> None:
    async with bridge(fresh_url, stripe) as built:
        await billed(built, 5, 7, 11)
        assert stripe.standing() == {"si_1": {AT: 5, AT + 3600: 7, AT + 7200: 11}}
        (move,) = (await apply(built, UPGRADED)).moves.moves
        assert (move.windows, move.amount, move.at_stripe) == (2, Fraction(18), 2)
        await until(lambda: drained(built), "they have moved")
    assert stripe.standing() == {
        "si_1": {AT: 5, AT + 3600: 0, AT + 7200: 0},
        "si_2": {AT + 3600: 7, AT + 7200: 11},
    }
    calls = [(call["subscription_item"], call["quantity"]) for call in stripe.ledger()]
    assert sorted(calls[3:5]) == [("si_1", 0), ("si_1", 0)]
    assert sorted(calls[5:]) == [("si_2", 7), ("si_2", 11)]


async def test_the_old_side_is_waited_for_however_often_it_fails(
    fresh_url: URL, stripe: StripeSide
) -> None:
    async with bridge(fresh_url, stripe) as built:
        await billed(built, 5, 7)
        fault = stripe.inject("status", status=500, times=3)
        await apply(built, UPGRADED)
        await until(lambda: drained(built), "it has moved")
    assert stripe.met(fault) == 3
    assert stripe.quantities("si_1")[-1] == 0
    assert [call["subscription_item"] for call in stripe.ledger()][-2:] == ["si_1", "si_2"]
    assert stripe.totals()["si_1"] == 5
    assert stripe.totals()["si_2"] == 7


async def test_under_billing_thresholds_it_is_owed_and_billed_by_force_only(
    fresh_url: URL, stripe: StripeSide
) -> None:
    """Stripe takes increments there, and none below zero."""
    stripe.set_threshold(1)
    async with bridge(fresh_url, stripe) as built:
        await billed(built, 5, 7)
        with pytest.raises(MovesBilledUsage, match="1 window with 7 units"):
            await apply(built, UPGRADED)
        await apply(built, UPGRADED, force=True)
        await until(lambda: drained(built), "it has moved")
        assert (await built.status.summary()).held == {"negative_increment": 1}
    assert stripe.totals()["si_1"] == 12
    assert stripe.totals()["si_2"] == 7
