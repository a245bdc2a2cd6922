"""The objects of the account: created, found, changed. Every reading rolls periods lazily."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from app.sandbox.catalog import Catalog
from app.sandbox.clock import SandboxClock
from app.sandbox.drafts import (
    ItemDraft,
    PlanDraft,
    SubscriptionDraft,
)
from app.sandbox.errors import invalid_value, no_such
from app.sandbox.ids import Ids
from app.sandbox.lifecycle import cancel, cancel_later, cut_period, roll
from app.sandbox.objects import (
    AggregateUsage,
    BillingPeriod,
    Customer,
    ItemState,
    Price,
    Recurring,
    Subscription,
    SubscriptionItem,
    SubscriptionStatus,
    UsageType,
)
from app.sandbox.periods import Cycle


class Account(Catalog):
    """One Stripe account. Lists are newest first, as Stripe's are; items in their given order."""

    def __init__(self, clock: SandboxClock, ids: Ids) -> None:
        super().__init__(clock, ids)
        self._subscriptions: dict[str, Subscription] = {}
        self._items: dict[str, SubscriptionItem] = {}

    def create_subscription(self, draft: SubscriptionDraft) -> Subscription:
        """Add a subscription and its items, rolled up to the present.

        Raises StripeError (400) for an unknown customer or price, prices that do not go
        together, a start in the future, or an id that is taken.
        """
        now = self._clock.now()
        start = now if draft.start_date is None else draft.start_date
        if start > now:
            raise invalid_value("start_date", "The subscription start date must be in the past.")
        if draft.cancel_at is not None and draft.cancel_at_period_end:
            raise invalid_value("cancel_at", "Received both cancel_at and cancel_at_period_end.")
        if self.customer(draft.customer, param="customer").deleted:
            raise no_such("customer", draft.customer, "customer", status=400)
        recurring = self._prices_that_agree(draft.items)
        anchor = draft.trial_end or draft.billing_cycle_anchor or start
        cycle = Cycle(anchor, recurring.interval, recurring.interval_count)
        trialing = draft.trial_end is not None and draft.trial_end > start
        subscription = Subscription(
            id=self._free_id(draft.id, "sub", self._subscriptions),
            created=start,
            customer=draft.customer,
            cycle=cycle,
            periods=[BillingPeriod(start, cycle.first_end(start))],
            currency=self._prices[draft.items[0].price].currency,
            status=SubscriptionStatus.TRIALING if trialing else SubscriptionStatus.ACTIVE,
            amount_gte=draft.amount_gte,
            reset_billing_cycle_anchor=draft.reset_billing_cycle_anchor,
            trial_start=None if draft.trial_end is None else start,
            trial_end=draft.trial_end,
            missing_payment_method=draft.missing_payment_method,
            metadata=dict(draft.metadata),
        )
        self._free_items(draft.items)
        self._no_reset_of_last_ever(subscription, draft.items)
        if draft.cancel_at is not None or draft.cancel_at_period_end:
            cancel_later(subscription, start, at=draft.cancel_at)
        self._subscriptions[subscription.id] = subscription
        for item in draft.items:
            self._add_item(subscription, item, created=start)
        roll(subscription, now, self._ids)
        if draft.status is not None:
            subscription.status = draft.status
        return subscription

    def create_item(self, subscription: str, draft: ItemDraft) -> SubscriptionItem:
        """Add an item to a subscription. Raises StripeError for unknown or taken ids."""
        holder = self.subscription(subscription)
        if holder.ended:
            raise invalid_value("subscription", "A canceled subscription takes no items.")
        self._prices_that_agree([draft], holder)
        self._no_reset_of_last_ever(holder, [draft])
        return self._add_item(holder, draft, created=self._clock.now())

    def end_item(self, item_id: str, *, gone: bool, clear_usage: bool) -> SubscriptionItem:
        """Take an item off its subscription: it ends, or vanishes when `gone`.

        What it holds of the open period is billed with the period, unless `clear_usage` drops it.
        """
        item = self.item(item_id)
        self._off(item, self.subscription(item.subscription), gone=gone, clear_usage=clear_usage)
        return item

    def change_plan(self, subscription: str, plan: PlanDraft) -> Subscription:
        """Put other items in place of all items of a subscription.

        Raises StripeError for prices that do not go together, another currency, taken ids, and
        an ended subscription.
        """
        holder = self.subscription(subscription)
        if holder.ended:
            raise invalid_value("subscription", "A canceled subscription takes no items.")
        recurring = self._prices_that_agree(plan.items)
        if self._prices[plan.items[0].price].currency != holder.currency:
            raise invalid_value("items", "A subscription keeps its currency.")
        self._free_items(plan.items)
        self._no_reset_of_last_ever(holder, plan.items)
        now = self._clock.now()
        trialing = holder.status is SubscriptionStatus.TRIALING
        if plan.reset_anchor and trialing:
            raise invalid_value("reset_anchor", "A trial's end is the anchor: move that instead.")
        for item in holder.live_items:
            self._off(item, holder, gone=plan.gone, clear_usage=plan.clear_usage)
        rhythm = (recurring.interval, recurring.interval_count)
        reset = plan.reset_anchor or rhythm != (holder.cycle.interval, holder.cycle.count)
        holder.cycle = Cycle(holder.cycle.anchor, *rhythm)
        if reset and not trialing:
            cut_period(holder, now, self._ids, reset_anchor=True)
        for draft in plan.items:
            self._add_item(holder, draft, created=now)
        return holder

    def switch_price(self, item_id: str, price: str) -> SubscriptionItem:
        """Another price on the same item, which keeps its usage.

        Raises StripeError (400) for a price of another rhythm, currency or way of counting.
        """
        item = self.item(item_id)
        holder = self.subscription(item.subscription)
        self._prices_that_agree([ItemDraft(price=price)], holder)
        old, new = self._prices[item.price].recurring, self._prices[price].recurring
        if (old.usage_type, old.aggregate_usage) != (new.usage_type, new.aggregate_usage):
            raise invalid_value("price", "The usage of an item is counted in one way only.")
        item.price = price
        return item

    def reset_at_thresholds(self, subscription: Subscription) -> None:
        """Let a threshold that is reached reset the anchor. Raises StripeError (400).

        Stripe has no such reset beside a price of `last_ever`.
        """
        self._no_reset_of_last_ever(subscription, [], reset=True)
        subscription.reset_billing_cycle_anchor = True

    def delete_customer(self, identifier: str) -> Customer:
        """Delete a customer, which cancels its subscriptions now."""
        customer = self.customer(identifier)
        for subscription in self.subscriptions():
            if subscription.customer == identifier:
                cancel(subscription, self._clock.now(), self._ids, invoice_now=False)
        customer.deleted = True
        return customer

    def subscription(self, identifier: str, *, param: str | None = None) -> Subscription:
        """A subscription, its periods as of now.

        Raises StripeError: 404, or 400 when the parameter `param` named it.
        """
        found = self._found(self._subscriptions, identifier, "subscription", param)
        now = self._clock.now()
        if now >= found.next_change:
            roll(found, now, self._ids)
        return found

    def item(self, identifier: str) -> SubscriptionItem:
        """An item, live or ended. Raises StripeError (404) for an unknown or vanished one."""
        item = self._items.get(identifier)
        if item is None or item.state is ItemState.GONE:
            raise no_such("subscription item", identifier, "id")
        return item

    def subscription_of(self, item_id: str) -> str | None:
        """The id of the subscription that an item is on; None for an unknown item."""
        item = self._items.get(item_id)
        return None if item is None else item.subscription

    def subscriptions(self) -> Sequence[Subscription]:
        """All subscriptions, newest first, their periods as of now."""
        return [self.subscription(name) for name in reversed(self._subscriptions)]

    def items_ever(self) -> Iterator[tuple[SubscriptionItem, Subscription, Price]]:
        """Every item that ever was, with its subscription and price."""
        for item in self._items.values():
            yield item, self.subscription(item.subscription), self._prices[item.price]

    def _add_item(
        self, subscription: Subscription, draft: ItemDraft, *, created: int
    ) -> SubscriptionItem:
        licensed = self._prices[draft.price].recurring.usage_type is UsageType.LICENSED
        item = SubscriptionItem(
            id=self._free_id(draft.id, "si", self._items),
            created=created,
            subscription=subscription.id,
            price=draft.price,
            quantity=(draft.quantity or 1) if licensed else None,
            usage_gte=draft.usage_gte,
            metadata=dict(draft.metadata),
        )
        self._items[item.id] = item
        subscription.items.append(item)
        return item

    def _off(
        self, item: SubscriptionItem, holder: Subscription, *, gone: bool, clear_usage: bool
    ) -> None:
        if clear_usage:
            item.usage.pop(len(holder.periods) - 1, None)
        if item.ended_at is None:
            item.ended_at = self._clock.now()
        item.state = ItemState.GONE if gone else ItemState.ENDED

    def _free_items(self, drafts: Sequence[ItemDraft]) -> None:
        for draft in drafts:
            self._free_id(draft.id, "si", self._items)

    def _no_reset_of_last_ever(
        self, holder: Subscription, drafts: Sequence[ItemDraft], *, reset: bool = False
    ) -> None:
        if not (reset or holder.reset_billing_cycle_anchor):
            return
        prices = [item.price for item in holder.live_items] + [draft.price for draft in drafts]
        for price in prices:
            if self._prices[price].recurring.aggregate_usage is AggregateUsage.LAST_EVER:
                raise invalid_value(
                    "billing_thresholds[reset_billing_cycle_anchor]",
                    "The billing cycle anchor cannot be reset by a threshold while a price has "
                    "`aggregate_usage=last_ever`.",
                )

    def _prices_that_agree(
        self, drafts: Sequence[ItemDraft], holder: Subscription | None = None
    ) -> Recurring:
        prices = [self._found(self._prices, d.price, "price", "items") for d in drafts]
        rhythms = {(p.recurring.interval, p.recurring.interval_count, p.currency) for p in prices}
        if holder is not None:
            rhythms.add((holder.cycle.interval, holder.cycle.count, holder.currency))
        if len(rhythms) > 1:
            raise invalid_value(
                "items",
                "All prices on a subscription must have the same currency, `recurring.interval` "
                "and `recurring.interval_count`.",
            )
        return replace(prices[0].recurring)
