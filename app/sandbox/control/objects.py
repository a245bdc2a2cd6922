"""Creating and changing what the account holds. Answers are Stripe's own objects."""

from fastapi import APIRouter

from app.sandbox import rendering
from app.sandbox.control.models import (
    CustomerChange,
    ItemEnd,
    ItemThreshold,
    PriceMeter,
    PriceSwitch,
    Replacement,
    SubscriptionChange,
)
from app.sandbox.drafts import CustomerDraft, ItemDraft, PriceDraft, SubscriptionDraft
from app.sandbox.endpoints import subscription_items, subscriptions
from app.sandbox.objects import Subscription, SubscriptionItem
from app.sandbox.sandbox import Sandbox
from app.sandbox.settings import ACACIA
from app.sandbox.wire import JsonObject


def build_router(sandbox: Sandbox) -> APIRouter:
    """Routes of customers, prices, subscriptions and items."""
    router = APIRouter(tags=["objects"])
    router.include_router(_billing(sandbox))
    router.include_router(_subscriptions(sandbox))
    router.include_router(_items(sandbox))
    return router


def _billing(sandbox: Sandbox) -> APIRouter:
    router = APIRouter()

    @router.post("/customers", status_code=201)
    async def create_customer(draft: CustomerDraft) -> JsonObject:
        """Create a customer."""
        return rendering.customer(sandbox.account.create_customer(draft))

    @router.patch("/customers/{customer_id}")
    async def change_customer(customer_id: str, change: CustomerChange) -> JsonObject:
        """Give a customer other metadata."""
        customer = sandbox.account.customer(customer_id)
        customer.metadata = dict(change.metadata)
        return rendering.customer(customer)

    @router.delete("/customers/{customer_id}")
    async def delete_customer(customer_id: str) -> JsonObject:
        """Delete a customer: its subscriptions are canceled now, and it is listed no more."""
        return rendering.customer(sandbox.account.delete_customer(customer_id))

    @router.post("/prices", status_code=201)
    async def create_price(draft: PriceDraft) -> JsonObject:
        """Create a price: metered, summed and monthly unless it says otherwise."""
        return rendering.price(sandbox.account.create_price(draft))

    @router.put("/prices/{price_id}/meter")
    async def set_price_meter(price_id: str, change: PriceMeter) -> JsonObject:
        """Move a price to a billing meter (its items refuse usage records), or back."""
        price = sandbox.account.price(price_id)
        price.recurring.meter = change.meter
        return rendering.price(price)

    return router


def _subscriptions(sandbox: Sandbox) -> APIRouter:
    router = APIRouter(prefix="/subscriptions")

    def rendered(found: Subscription) -> JsonObject:
        return subscriptions.rendered(sandbox, found, ACACIA)

    @router.post("", status_code=201)
    async def create_subscription(draft: SubscriptionDraft) -> JsonObject:
        """Create a subscription with its items; a `start_date` in the past backdates it."""
        return rendered(sandbox.account.create_subscription(draft))

    @router.patch("/{subscription_id}")
    async def change_subscription(subscription_id: str, change: SubscriptionChange) -> JsonObject:
        """Put a subscription into another status, or give it other metadata."""
        found = sandbox.account.subscription(subscription_id)
        if change.status is not None:
            found.status = change.status
        if change.metadata is not None:
            found.metadata = dict(change.metadata)
        return rendered(found)

    @router.post("/{subscription_id}/items", status_code=201)
    async def create_item(subscription_id: str, draft: ItemDraft) -> JsonObject:
        """Add an item."""
        item = sandbox.account.create_item(subscription_id, draft)
        return subscription_items.rendered(sandbox, item, ACACIA)

    return router


def _items(sandbox: Sandbox) -> APIRouter:
    router = APIRouter(prefix="/subscription_items/{item_id}")

    def rendered(item: SubscriptionItem) -> JsonObject:
        return subscription_items.rendered(sandbox, item, ACACIA)

    @router.post("/end")
    async def end_item(item_id: str, how: ItemEnd | None = None) -> JsonObject:
        """Take an item off its subscription: usage is refused as 'no longer active'."""
        clear = how is not None and how.clear_usage
        return rendered(sandbox.account.end_item(item_id, gone=False, clear_usage=clear))

    @router.delete("")
    async def delete_item(item_id: str) -> JsonObject:
        """Take an item away without a trace: it answers 404."""
        item = sandbox.account.end_item(item_id, gone=True, clear_usage=False)
        return {"id": item.id, "object": "subscription_item", "deleted": True}

    @router.post("/replace", status_code=201)
    async def replace_item(item_id: str, new: Replacement) -> JsonObject:
        """A plan change: end the item and put a new one, with a new id, in its place."""
        account = sandbox.account
        old = account.item(item_id)
        draft = ItemDraft(id=new.id, price=new.price or old.price)
        item = account.create_item(old.subscription, draft)
        account.end_item(item_id, gone=new.gone, clear_usage=new.clear_usage)
        return rendered(item)

    @router.put("/price")
    async def switch_price(item_id: str, switch: PriceSwitch) -> JsonObject:
        """A plan change in place: the item keeps its id and its usage."""
        return rendered(sandbox.account.switch_price(item_id, switch.price))

    @router.put("/thresholds")
    async def set_item_thresholds(item_id: str, change: ItemThreshold) -> JsonObject:
        """Set or take away the item's billing threshold."""
        item = sandbox.account.item(item_id)
        item.usage_gte = change.usage_gte
        return rendered(item)

    return router
