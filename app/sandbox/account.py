"""The objects of the account: created, found, changed. Every reading rolls periods lazily."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from app.sandbox.clock import SandboxClock
from app.sandbox.drafts import CustomerDraft, ItemDraft, PriceDraft, SubscriptionDraft
from app.sandbox.errors import StripeError, invalid_value, no_such
from app.sandbox.ids import Ids
from app.sandbox.lifecycle import roll
from app.sandbox.objects import (
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

T = TypeVar("T")


class Account:
    """One Stripe account. Lists are newest first, as Stripe's are; items in their given order."""

    def __init__(self, clock: SandboxClock, ids: Ids) -> None:
        self._clock = clock
        self._ids = ids
        self._customers: dict[str, Customer] = {}
        self._prices: dict[str, Price] = {}
        self._subscriptions: dict[str, Subscription] = {}
        self._items: dict[str, SubscriptionItem] = {}

    def create_customer(self, draft: CustomerDraft) -> Customer:
        """Add a customer. Raises StripeError (400) for an id that is taken."""
        customer = Customer(
            id=self._free_id(draft.id, "cus", self._customers),
            created=self._clock.now(),
            **draft.model_dump(exclude={"id"}),
        )
        self._customers[customer.id] = customer
        return customer

    def create_price(self, draft: PriceDraft) -> Price:
        """Add a price. Raises StripeError (400) for an id or a lookup key that is taken."""
        identifier = self._free_id(draft.id, "price", self._prices)
        self._claim_lookup_key(draft)
        legacy = draft.usage_type is UsageType.METERED and draft.meter is None
        price = Price(
            id=identifier,
            created=self._clock.now(),
            product=draft.product or self._ids.new("prod"),
            recurring=Recurring(
                interval=draft.interval,
                interval_count=draft.interval_count,
                usage_type=draft.usage_type,
                aggregate_usage=draft.aggregate_usage if legacy else None,
                meter=draft.meter,
            ),
            currency=draft.currency,
            unit_amount=draft.unit_amount,
            lookup_key=draft.lookup_key,
            nickname=draft.nickname,
            active=draft.active,
            metadata=dict(draft.metadata),
        )
        self._prices[price.id] = price
        return price

    def create_subscription(self, draft: SubscriptionDraft) -> Subscription:
        """Add a subscription and its items, rolled up to the present.

        Raises StripeError (400) for an unknown customer or price, prices that do not go
        together, a start in the future, or an id that is taken.
        """
        now = self._clock.now()
        start = now if draft.start_date is None else draft.start_date
        if start > now:
            raise invalid_value("start_date", "The subscription start date must be in the past.")
        self.customer(draft.customer, param="customer")
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
            cancel_at_period_end=draft.cancel_at_period_end,
            trial_end=draft.trial_end,
            metadata=dict(draft.metadata),
        )
        for item in draft.items:
            self._free_id(item.id, "si", self._items)
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
        return self._add_item(holder, draft, created=self._clock.now())

    def replace_item(self, item_id: str, draft: ItemDraft, *, gone: bool) -> SubscriptionItem:
        """A plan change: the item ends (or vanishes, when `gone`) and a new one takes its place."""
        item = self.item(item_id)
        new = self.create_item(item.subscription, draft)
        item.state = ItemState.GONE if gone else ItemState.ENDED
        return new

    def customer(self, identifier: str, *, param: str | None = None) -> Customer:
        """A customer. Raises StripeError: 404, or 400 when the parameter `param` named it."""
        return self._found(self._customers, identifier, "customer", param)

    def price(self, identifier: str) -> Price:
        """A price. Raises StripeError (404)."""
        return self._found(self._prices, identifier, "price", None)

    def subscription(self, identifier: str, *, param: str | None = None) -> Subscription:
        """A subscription, its periods as of now.

        Raises StripeError: 404, or 400 when the parameter `param` named it.
        """
        found = self._found(self._subscriptions, identifier, "subscription", param)
        if self._clock.now() >= found.current.end:
            roll(found, self._clock.now(), self._ids)
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

    def customers(self) -> Sequence[Customer]:
        """All customers, newest first."""
        return list(reversed(self._customers.values()))

    def prices(self) -> Sequence[Price]:
        """All prices, newest first."""
        return list(reversed(self._prices.values()))

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

    def _claim_lookup_key(self, draft: PriceDraft) -> None:
        if draft.lookup_key is None:
            return
        for price in self._prices.values():
            if price.lookup_key != draft.lookup_key:
                continue
            if not draft.transfer_lookup_key:
                raise invalid_value(
                    "lookup_key", f"A price (`{price.id}`) already uses that lookup key."
                )
            price.lookup_key = None

    def _free_id(self, wanted: str | None, prefix: str, taken: dict[str, T]) -> str:
        if wanted is None:
            return self._ids.new(prefix)
        if wanted in taken:
            raise StripeError(
                400, f"'{wanted}' already exists.", code="resource_already_exists", param="id"
            )
        return wanted

    @staticmethod
    def _found(objects: dict[str, T], identifier: str, noun: str, param: str | None) -> T:
        found = objects.get(identifier)
        if found is None:
            status = 404 if param is None else 400
            raise no_such(noun, identifier, param or "id", status=status)
        return found
