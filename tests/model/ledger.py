"""What the program's ledger says, and what must hold there after every drain."""

from collections import Counter
from datetime import datetime
from typing import Any, Final

from tests.ledger.adding_up import NOT_ADDING_UP
from tests.model.billing import BEFORE, Billing, Booked, Place, Told, Window
from tests.model.program import Program

_WINDOWS: Final = """
    select w.meter, w.subject, w.group_by, w.window_start, w.state, w.reason,
           r.subscription_item as item, r.timestamp, p.period_start
    from usage_windows w
    left join usage_records r on r.id = w.usage_record_id
    left join item_periods p on p.id = r.item_period_id
"""
_RECORDS: Final = """
    select r.id, r.subscription_item as item, r.timestamp, r.wanted_quantity::bigint as wanted,
           r.reported_quantity::bigint as reported, r.carried_quantity::bigint as carried,
           r.state, r.reason, r.detail, r.doubtful, r.sent_key, p.period_start,
           p.closed_at is not null as closed
    from usage_records r join item_periods p on p.id = r.item_period_id order by r.id
"""


def _period(billing: Billing, item: str, start: datetime) -> int:
    second = int(start.timestamp())
    if second == 0:
        return BEFORE
    owner = billing.owner(item)
    number, rest = divmod(second - owner.anchor, owner.length)
    assert rest == 0, (item, start)
    return number


async def windows(program: Program, billing: Billing) -> dict[Window, Booked]:
    """What became of every window."""
    found = {}
    for row in await program.rows(_WINDOWS):
        name = Window(
            row["meter"],
            row["subject"],
            row["group_by"].get("model", ""),
            int(row["window_start"].timestamp()),
        )
        item = row["item"]
        period = None if item is None else _period(billing, item, row["period_start"])
        found[name] = Booked(row["state"], row["reason"], item, period, row["timestamp"])
    return found


async def roundings(program: Program, billing: Billing) -> dict[Place, str]:
    """How each item's period is rounded."""
    rows = await program.rows("select subscription_item, period_start, rounding from item_periods")
    return {
        Place(
            row["subscription_item"],
            _period(billing, row["subscription_item"], row["period_start"]),
        ): row["rounding"]
        for row in rows
    }


async def told(program: Program, billing: Billing) -> dict[str, Told]:
    """What each item owes, and what was carried to its open period."""
    stripe = program.stripe.standing()
    found: dict[str, Counter[str]] = {item: Counter() for item in billing.items.values()}
    for row in await program.rows(_RECORDS):
        counts, item = found[row["item"]], row["item"]
        period = _period(billing, item, row["period_start"])
        if period == billing.owner(item).current(program.now):
            counts["carried"] += row["carried"]
        if row["reason"] == "credit_due":
            credit = row["reported"] - row["wanted"]
            assert credit > 0
            assert row["detail"].startswith(f"{credit} unit"), row
            counts["credit_due"] += credit
        if row["reason"] == "outcome_in_doubt":
            held = stripe[item].get(period, {}).get(row["timestamp"], 0)
            counts["in_doubt"] += row["wanted"] - held
    return {item: Told(**counts) for item, counts in found.items()}


async def must_be_drained(program: Program, billing: Billing) -> None:
    """Nothing is outstanding, everything adds up, and Stripe holds what is said to be reported."""
    assert await program.rows(NOT_ADDING_UP) == []
    assert await program.rows("select 1 from deliveries where state <> 'booked'") == []
    assert await program.rows("select 1 from stripe_line where stopped") == []
    now = program.now
    for row in await program.rows(_WINDOWS):
        parked = row["state"] == "parked" and row["reason"] == "period_closed"
        assert row["state"] == "booked" or parked, row
    stripe = program.stripe.standing()
    known: set[tuple[str, int, int]] = set()
    for row in await program.rows(_RECORDS):
        item = row["item"]
        period = _period(billing, item, row["period_start"])
        known.add((item, period, row["timestamp"]))
        _must_be_settled(billing, row, period, now)
        held = stripe[item].get(period, {}).get(row["timestamp"], 0)
        if not row["doubtful"]:
            assert row["reported"] == held, (row, "Stripe holds", held)
    for item, periods in stripe.items():
        for period, records in periods.items():
            for second in records:
                assert (item, period, second) in known, (item, period, second)
    calls = [call for _, call in program.stripe.sandbox.ledger.after(0)]
    keys = Counter((call.idempotency_key, call.at // 86_400) for call in calls)
    assert max(keys.values(), default=1) == 1, keys.most_common(1)


def _must_be_settled(billing: Billing, row: dict[str, Any], period: int, now: int) -> None:
    if row["state"] == "reported":
        assert row["sent_key"] is None, row
        return
    assert row["state"] == "held", row
    assert row["closed"], row
    assert period < billing.owner(row["item"]).current(now), row
    if row["doubtful"]:
        # Only a POST that nobody heard of again until Stripe may have forgotten its key, or one
        # that Stripe answered by an error which it repeats, and whose period was closed by then.
        assert row["reason"] == "outcome_in_doubt", row
        assert billing.unheard, row
    elif row["item"] in billing.max_items | billing.hold_items:
        assert row["reason"] == "period_closed", row
    else:
        assert row["reason"] == "credit_due", row
