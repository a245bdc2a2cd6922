"""Builds the typed answers from the objects of Stripe's bodies. Pure."""

from app.stripe_client.answers import (
    Action,
    Customer,
    Price,
    Subscription,
    SubscriptionItem,
    UsageRecordAnswer,
    UsageRecordSummary,
)
from app.stripe_client.errors import MalformedAnswer
from app.stripe_client.members import Members


def read_usage_record(
    body: Members, *, subscription_item: str, quantity: int, timestamp: int, action: Action
) -> UsageRecordAnswer:
    """The record, once it is known to be the one that was asked for.

    After `increment` Stripe's quantity need not be the one sent, so only `set` is held to it.
    """
    body.expect("object", "usage_record")
    body.expect("subscription_item", subscription_item)
    body.expect("timestamp", timestamp)
    if action == "set":
        body.expect("quantity", quantity)
    return UsageRecordAnswer(
        id=body.text("id"),
        quantity=body.integer("quantity"),
        subscription_item=subscription_item,
        timestamp=timestamp,
        livemode=body.boolean("livemode"),
        meta=body.meta,
    )


def read_price(body: Members) -> Price:
    """A price; one that does not recur has no usage type."""
    body.expect("object", "price")
    recurring = body.members("recurring") if body.has("recurring") else None
    return Price(
        id=body.text("id"),
        active=body.boolean("active"),
        currency=body.text("currency"),
        lookup_key=body.text_or_none("lookup_key"),
        metadata=body.texts("metadata"),
        usage_type=recurring.text("usage_type") if recurring else None,
        aggregate_usage=recurring.text_or_none("aggregate_usage") if recurring else None,
        meter=recurring.id_of_or_none("meter") if recurring else None,
        interval=recurring.text("interval") if recurring else None,
        interval_count=recurring.integer_or_none("interval_count") if recurring else None,
        meta=body.meta,
    )


def read_item(
    body: Members,
    *,
    subscription: str | None = None,
    period_start: int | None = None,
    period_end: int | None = None,
) -> SubscriptionItem:
    """An item. `period_start` and `period_end` are its subscription's, for want of its own.

    Under the pinned version the period stands on the subscription, from basil on on the item.
    """
    body.expect("object", "subscription_item")
    if subscription is not None and body.has("subscription"):
        body.expect("subscription", subscription)
    # The two bounds come from one place: a start and an end of different periods make no period.
    if body.has("current_period_start") or body.has("current_period_end"):
        period_start = body.integer("current_period_start")
        period_end = body.integer("current_period_end")
    return SubscriptionItem(
        id=body.text("id"),
        price=read_price(body.members("price")),
        quantity=body.integer_or_none("quantity"),
        billing_thresholds=body.has("billing_thresholds"),
        deleted=body.boolean_or("deleted", default=False),
        current_period_start=period_start,
        current_period_end=period_end,
        metadata=body.texts("metadata"),
        meta=body.meta,
    )


def read_subscription(body: Members, *, wanted: str | None = None) -> tuple[Subscription, bool]:
    """A subscription with the first page of its items, and whether there are more pages."""
    body.expect("object", "subscription")
    if wanted is not None:
        body.expect("id", wanted)
    start = body.integer_or_none("current_period_start")
    end = body.integer_or_none("current_period_end")
    items_list = body.members("items")
    items = tuple(
        read_item(item, subscription=body.text("id"), period_start=start, period_end=end)
        for item in items_list.each("data")
    )
    if (start is None or end is None) and not (
        items and all(item.current_period_end is not None for item in items)
    ):
        raise MalformedAnswer(
            "current_period_start and current_period_end stand neither on the subscription"
            " nor on each of its items",
            meta=body.meta,
        )
    subscription = Subscription(
        id=body.text("id"),
        customer=body.id_of("customer"),
        status=body.text("status"),
        livemode=body.boolean("livemode"),
        current_period_start=start,
        current_period_end=end,
        items=items,
        cancel_at=body.integer_or_none("cancel_at"),
        cancel_at_period_end=body.boolean_or("cancel_at_period_end", default=False),
        canceled_at=body.integer_or_none("canceled_at"),
        ended_at=body.integer_or_none("ended_at"),
        start_date=body.integer_or_none("start_date"),
        trial_end=body.integer_or_none("trial_end"),
        pause_collection=body.has("pause_collection"),
        billing_thresholds=body.has("billing_thresholds"),
        schedule=body.id_of_or_none("schedule"),
        metadata=body.texts("metadata"),
        meta=body.meta,
    )
    return subscription, items_list.boolean("has_more")


def read_summary(body: Members, *, subscription_item: str) -> UsageRecordSummary:
    """The summary of one period of the item that was asked for."""
    body.expect("object", "usage_record_summary")
    body.expect("subscription_item", subscription_item)
    period = body.members("period")
    return UsageRecordSummary(
        id=body.text("id"),
        subscription_item=subscription_item,
        invoice=body.id_of_or_none("invoice"),
        period_start=period.integer_or_none("start"),
        period_end=period.integer_or_none("end"),
        total_usage=body.integer("total_usage"),
        livemode=body.boolean("livemode"),
        meta=body.meta,
    )


def read_customer(body: Members, *, wanted: str | None = None) -> Customer:
    """A customer, or what is left of a deleted one."""
    body.expect("object", "customer")
    if wanted is not None:
        body.expect("id", wanted)
    deleted = body.boolean_or("deleted", default=False)
    return Customer(
        id=body.text("id"),
        deleted=deleted,
        livemode=None if deleted else body.boolean("livemode"),
        metadata=body.texts("metadata"),
        meta=body.meta,
    )
