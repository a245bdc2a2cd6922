"""The rules of usage records: which period takes one, and what a period adds up to. Pure."""

from app.sandbox.errors import StripeError
from app.sandbox.objects import (
    AggregateUsage,
    ItemState,
    Price,
    Subscription,
    SubscriptionItem,
    UsageType,
)
from app.sandbox.settings import Settings
from app.sandbox.usage_refusals import (
    item_no_longer_active,
    only_increment_allowed,
    period_closed,
    price_has_meter,
    price_is_licensed,
    timestamp_in_future,
)

SET = "set"
INCREMENT = "increment"


def refusal(
    item: SubscriptionItem, subscription: Subscription, price: Price, action: str
) -> StripeError | None:
    """Why no usage can be recorded for this item at all; None when it can."""
    if item.state is not ItemState.LIVE or subscription.ended:
        return item_no_longer_active(item.id)
    if price.recurring.meter is not None:
        return price_has_meter(item.id)
    if price.recurring.usage_type is UsageType.LICENSED:
        return price_is_licensed(item.id)
    if action == SET and (subscription.has_thresholds or item.usage_gte is not None):
        return only_increment_allowed()
    return None


def period_of(
    timestamp: int,
    *,
    now: int,
    item: SubscriptionItem,
    subscription: Subscription,
    price: Price,
    settings: Settings,
) -> int:
    """The number of the period that takes a record at `timestamp`.

    A period takes timestamps after its start, up to and including its end. Raises StripeError
    (400) for the future and for a closed period.
    """
    if timestamp > now + settings.future_tolerance_seconds:
        raise timestamp_in_future()
    current = len(subscription.periods) - 1
    if timestamp > subscription.current.start:
        return current
    in_grace = (
        price.recurring.aggregate_usage is AggregateUsage.SUM
        and current > 0
        and now < subscription.current.start + settings.grace_seconds
        and timestamp > subscription.periods[current - 1].start
        and item.created < subscription.current.start
    )
    if in_grace:
        return current - 1
    raise period_closed()


def put(item: SubscriptionItem, *, period: int, timestamp: int, quantity: int, action: str) -> int:
    """Record usage; the quantity that stands at the timestamp afterwards.

    `set` overwrites what stands at this very timestamp; `increment` adds to it.
    """
    records = item.usage.setdefault(period, {})
    if action == INCREMENT:
        quantity += records.get(timestamp, 0)
    records[timestamp] = quantity
    return quantity


def total(item: SubscriptionItem, period: int, aggregate: AggregateUsage | None) -> int:
    """What a period adds up to; 0 without records."""
    records = item.usage.get(period, {})
    if aggregate is AggregateUsage.LAST_EVER:
        earlier = [number for number, held in item.usage.items() if number <= period and held]
        records = item.usage[max(earlier)] if earlier else {}
    if not records:
        return 0
    if aggregate is AggregateUsage.MAX:
        return max(records.values())
    if aggregate in {AggregateUsage.LAST_DURING_PERIOD, AggregateUsage.LAST_EVER}:
        return records[max(records)]
    return sum(records.values())
