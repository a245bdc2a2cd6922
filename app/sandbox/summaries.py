"""Usage record summaries: one per billing period that an item was there for."""

from collections.abc import Mapping
from dataclasses import dataclass

from app.sandbox.objects import BillingPeriod, Price, Subscription, SubscriptionItem
from app.sandbox.usage import total
from app.sandbox.wire import JsonObject


@dataclass(frozen=True, slots=True)
class Summary:
    """An item's usage in one period: after its start, up to and including its end.

    Adds up when it is asked to, and not before: a year of hourly records has 8,760 of them, and
    most callers look at the newest period.
    """

    item: SubscriptionItem
    price: Price
    number: int
    period: BillingPeriod
    closed: bool

    @property
    def id(self) -> str:
        """The same for the same period, always."""
        return f"sis_{self.item.id.removeprefix('si_')}_{self.number}"

    @property
    def total_usage(self) -> int:
        """What the period adds up to, by the price's `aggregate_usage`."""
        return total(self.item, self.number, self.price.recurring.aggregate_usage)

    @property
    def records(self) -> Mapping[int, int]:
        """What stands in the period: timestamp -> quantity."""
        return self.item.usage.get(self.number, {})

    def document(self) -> JsonObject:
        """As the API shows it."""
        return {
            "id": self.id,
            "object": "usage_record_summary",
            "invoice": self.period.invoice,
            "livemode": False,
            "period": {"start": self.period.start, "end": self.period.end},
            "subscription_item": self.item.id,
            "total_usage": self.total_usage,
        }


def summaries(item: SubscriptionItem, subscription: Subscription, price: Price) -> list[Summary]:
    """The item's summaries, newest period first.

    Periods that were over before the item was, or began when it was no longer, are left out.
    """
    current = len(subscription.periods) - 1
    return [
        Summary(item, price, number, period, closed=number < current or subscription.ended)
        for number, period in reversed(list(enumerate(subscription.periods)))
        if (period.end > item.created or number == current)
        and (item.ended_at is None or period.start < item.ended_at)
    ]
