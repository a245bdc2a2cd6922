"""A year by the hour: every record in its own period, and nothing that slows down on the way."""

from app.sandbox.clock import SandboxClock
from app.sandbox.drafts import CustomerDraft, ItemDraft, PriceDraft, SubscriptionDraft
from app.sandbox.endpoints.usage_records import record
from app.sandbox.sandbox import Sandbox
from app.sandbox.summaries import summaries
from tests.sandbox.world import unix

_START = unix("2024-01-01T00:00:00")
_HOUR = 3_600
_HOURS = 366 * 24
_ANCHORS = [
    unix("2023-12-31T00:00:00"),
    unix("2023-12-31T13:37:11"),
    unix("2023-11-30T23:59:59"),
    unix("2023-02-28T12:00:00"),
    unix("2023-10-29T01:30:00"),
]


def _sandbox() -> Sandbox:
    clock = SandboxClock()
    clock.set(_START, frozen=True)
    sandbox = Sandbox(api_keys=frozenset(), clock=clock, limit_per_second=0)
    account = sandbox.account
    account.create_customer(CustomerDraft(id="cus_1"))
    account.create_price(PriceDraft(id="price_1"))
    for number, anchor in enumerate(_ANCHORS):
        item = ItemDraft(id=f"si_{number}", price="price_1")
        account.create_subscription(
            SubscriptionDraft(customer="cus_1", items=[item], start_date=anchor)
        )
    return sandbox


def test_a_leap_year_of_hourly_records_is_tiled_by_its_periods() -> None:
    sandbox = _sandbox()
    sandbox.settings.ledger_keeps = 1_000
    names = [f"si_{number}" for number in range(len(_ANCHORS))]
    for _ in range(_HOURS):
        sandbox.clock.advance(_HOUR)
        at = sandbox.clock.now()
        for name in names:
            period_start = sandbox.account.subscription(
                sandbox.account.item(name).subscription
            ).current.start
            if at > period_start:  # the second of a boundary belongs to a period that is shut
                record(sandbox, name, quantity=1, action="set", timestamp=at)
    for item, subscription, price in sandbox.account.items_ever():
        found = [s for s in summaries(item, subscription, price) if s.period.end > _START]
        assert len(found) >= 12
        for summary in found:
            end = min(summary.period.end, _START + _HOURS * _HOUR)
            start = max(summary.period.start, _START)
            # A closed period takes nothing at its very end any more, an open one does.
            inside = (
                (end - 1) // _HOUR - start // _HOUR
                if summary.closed
                else (end // _HOUR - start // _HOUR)
            )
            assert summary.total_usage == inside
    assert len(sandbox.ledger) == sum(
        len(held) for item, _, _ in sandbox.account.items_ever() for held in item.usage.values()
    )
    assert len(list(sandbox.ledger.after(0))) == 1_000
