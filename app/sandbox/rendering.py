"""Objects as the API shows them: the members of 2025-02-24.acacia that stand for something here.

Each dict literal is one kind of object. From 2025-03-31.basil on, the period stands on the item.
"""

from app.sandbox.objects import (
    Customer,
    Price,
    Subscription,
    SubscriptionItem,
)
from app.sandbox.wire import JsonObject

PERIOD_ON_ITEM_SINCE = "2025-03-31"
_EMBEDDED_ITEMS = 10


def period_on_item(version: str) -> bool:
    """Whether this version shows the current period on the item and not on the subscription."""
    return version[:10] >= PERIOD_ON_ITEM_SINCE


def listing(url: str, data: list[JsonObject], *, has_more: bool) -> JsonObject:
    """A page of a list."""
    return {"object": "list", "data": data, "has_more": has_more, "url": url}


def items_url(holder: Subscription) -> str:
    """Where a subscription's items are listed."""
    return f"/v1/subscription_items?subscription={holder.id}"


def customer(found: Customer) -> JsonObject:
    """A customer, or what is left of a deleted one."""
    if found.deleted:
        return {"id": found.id, "object": "customer", "deleted": True}
    return {
        "id": found.id,
        "object": "customer",
        "created": found.created,
        "description": found.description,
        "email": found.email,
        "livemode": False,
        "metadata": found.metadata,
        "name": found.name,
    }


def price(found: Price) -> JsonObject:
    """A recurring price."""
    return {
        "id": found.id,
        "object": "price",
        "active": found.active,
        "billing_scheme": "per_unit",
        "created": found.created,
        "currency": found.currency,
        "custom_unit_amount": None,
        "livemode": False,
        "lookup_key": found.lookup_key,
        "metadata": found.metadata,
        "nickname": found.nickname,
        "product": found.product,
        "recurring": {
            "aggregate_usage": found.recurring.aggregate_usage,
            "interval": found.recurring.interval,
            "interval_count": found.recurring.interval_count,
            "meter": found.recurring.meter,
            "trial_period_days": None,
            "usage_type": found.recurring.usage_type,
        },
        "tax_behavior": "unspecified",
        "tiers_mode": None,
        "transform_quantity": None,
        "type": "recurring",
        "unit_amount": found.unit_amount,
        "unit_amount_decimal": None if found.unit_amount is None else str(found.unit_amount),
    }


def subscription_item(
    found: SubscriptionItem, of: Price, holder: Subscription, version: str
) -> JsonObject:
    """A subscription item with its price."""
    document: JsonObject = {
        "id": found.id,
        "object": "subscription_item",
        "billing_thresholds": (None if found.usage_gte is None else {"usage_gte": found.usage_gte}),
        "created": found.created,
        "discounts": [],
        "metadata": found.metadata,
        "price": price(of),
        "subscription": found.subscription,
        "tax_rates": [],
    }
    if found.quantity is not None:
        document["quantity"] = found.quantity
    if period_on_item(version):
        document.update(_period(holder))
    return document


def subscription(found: Subscription, prices: dict[str, Price], version: str) -> JsonObject:
    """A subscription with its first ten items; `items.has_more` tells of others."""
    items = found.live_items
    shown = [
        subscription_item(item, prices[item.id], found, version) for item in items[:_EMBEDDED_ITEMS]
    ]
    document: JsonObject = {
        "id": found.id,
        "object": "subscription",
        "billing_cycle_anchor": found.cycle.anchor,
        "billing_thresholds": _thresholds(found),
        "cancel_at": found.current.end if found.cancel_at_period_end else found.cancel_at,
        "cancel_at_period_end": found.cancel_at_period_end,
        "canceled_at": found.canceled_at,
        "collection_method": "charge_automatically",
        "created": found.created,
        "currency": found.currency,
        "customer": found.customer,
        "description": None,
        "ended_at": found.ended_at,
        "items": listing(
            items_url(found),
            shown,
            has_more=len(items) > _EMBEDDED_ITEMS,
        ),
        "latest_invoice": _latest_invoice(found),
        "livemode": False,
        "metadata": found.metadata,
        "pause_collection": _pause(found),
        "schedule": None,
        "start_date": found.created,
        "status": found.status,
        "trial_end": found.trial_end,
        "trial_settings": {
            "end_behavior": {"missing_payment_method": found.missing_payment_method}
        },
        "trial_start": found.trial_start,
    }
    if not period_on_item(version):
        document.update(_period(found))
    return document


def usage_record(
    identifier: str, item: SubscriptionItem, *, timestamp: int, quantity: int
) -> JsonObject:
    """A usage record: the quantity that now stands at the timestamp."""
    return {
        "id": identifier,
        "object": "usage_record",
        "livemode": False,
        "quantity": quantity,
        "subscription_item": item.id,
        "timestamp": timestamp,
    }


def _period(found: Subscription) -> JsonObject:
    return {
        "current_period_start": found.current.start,
        "current_period_end": found.current.end,
    }


def _thresholds(found: Subscription) -> JsonObject | None:
    if not found.has_thresholds:
        return None
    return {
        "amount_gte": found.amount_gte,
        "reset_billing_cycle_anchor": found.reset_billing_cycle_anchor,
    }


def _pause(found: Subscription) -> JsonObject | None:
    if found.pause is None:
        return None
    return {"behavior": found.pause.behavior, "resumes_at": found.pause.resumes_at}


def _latest_invoice(found: Subscription) -> str | None:
    for period in reversed(found.periods):
        if period.invoice is not None:
            return period.invoice
    return None
