"""Usage record summaries: one per billing period that an item was there for."""

from dataclasses import dataclass

from app.sandbox.objects import Price, Subscription, SubscriptionItem
from app.sandbox.usage import total
from app.sandbox.wire import JsonObject


@dataclass(frozen=True, slots=True)
class Summary:
    """An item's usage in one period: after `start`, up to and including `end`."""

    id: str
    item: str
    start: int
    end: int
    invoice: str | None
    total_usage: int
    records: dict[int, int]

    def document(self) -> JsonObject:
        """As the API shows it."""
        return {
            "id": self.id,
            "object": "usage_record_summary",
            "invoice": self.invoice,
            "livemode": False,
            "period": {"start": self.start, "end": self.end},
            "subscription_item": self.item,
            "total_usage": self.total_usage,
        }


def summaries(item: SubscriptionItem, subscription: Subscription, price: Price) -> list[Summary]:
    """The item's summaries, newest period first. Periods over before the item was are left out."""
    aggregate = price.recurring.aggregate_usage
    return [
        Summary(
            id=f"sis_{item.id.removeprefix('si_')}_{number}",
            item=item.id,
            start=period.start,
            end=period.end,
            invoice=period.invoice,
            total_usage=total(item, number, aggregate),
            records=dict(sorted(item.usage.get(number, {}).items())),
        )
        for number, period in reversed(list(enumerate(subscription.periods)))
        if period.end > item.created or number == len(subscription.periods) - 1
    ]
