"""Customers and prices: what subscriptions are made of."""

from collections.abc import Sequence
from typing import TypeVar

from app.sandbox.clock import SandboxClock
from app.sandbox.drafts import CustomerDraft, PriceDraft
from app.sandbox.errors import StripeError, invalid_value, no_such
from app.sandbox.ids import Ids
from app.sandbox.objects import Customer, Price, Recurring, UsageType

T = TypeVar("T")


class Catalog:
    """The customers and prices of one account. Lists are newest first, as Stripe's are."""

    def __init__(self, clock: SandboxClock, ids: Ids) -> None:
        self._clock = clock
        self._ids = ids
        self._customers: dict[str, Customer] = {}
        self._prices: dict[str, Price] = {}

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

    def customer(self, identifier: str, *, param: str | None = None) -> Customer:
        """A customer. Raises StripeError: 404, or 400 when the parameter `param` named it."""
        return self._found(self._customers, identifier, "customer", param)

    def price(self, identifier: str) -> Price:
        """A price. Raises StripeError (404)."""
        return self._found(self._prices, identifier, "price", None)

    def customers(self) -> Sequence[Customer]:
        """All customers that are not deleted, newest first."""
        return [found for found in reversed(self._customers.values()) if not found.deleted]

    def prices(self) -> Sequence[Price]:
        """All prices, newest first."""
        return list(reversed(self._prices.values()))

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
