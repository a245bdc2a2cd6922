"""/v1/subscription_items."""

from app.sandbox import parameters, rendering
from app.sandbox.endpoints.endpoint import Call, Endpoint
from app.sandbox.errors import no_such
from app.sandbox.objects import ItemState, SubscriptionItem
from app.sandbox.operations import Operation
from app.sandbox.paging import PAGING, page
from app.sandbox.sandbox import Sandbox
from app.sandbox.wire import Execution, JsonObject


def rendered(sandbox: Sandbox, item: SubscriptionItem, version: str) -> JsonObject:
    """An item as the API shows it."""
    holder = sandbox.account.subscription(item.subscription)
    return rendering.subscription_item(item, sandbox.account.price(item.price), holder, version)


def _list(sandbox: Sandbox, call: Call) -> Execution:
    subscription = parameters.required_text(call.parameters, "subscription")

    def execute() -> JsonObject:
        holder = sandbox.account.subscription(subscription, param="subscription")
        shown, has_more = page(holder.live_items, call.parameters, "subscription item")
        documents = [rendered(sandbox, item, call.version) for item in shown]
        # The filter stands in the URL: it is all that the official client keeps of a list that it
        # found inside a subscription when it walks on to the third page.
        url = rendering.items_url(holder)
        return rendering.listing(url, documents, has_more=has_more)

    return execute


def _retrieve(sandbox: Sandbox, call: Call) -> Execution:
    def execute() -> JsonObject:
        item = sandbox.account.item(call.object_id)
        if item.state is ItemState.ENDED:
            raise no_such("subscription item", item.id, "id")
        return rendered(sandbox, item, call.version)

    return execute


LIST = Endpoint(
    Operation.LIST_SUBSCRIPTION_ITEMS,
    "rak_subscription_read",
    PAGING | {"subscription"},
    _list,
)
RETRIEVE = Endpoint(
    Operation.RETRIEVE_SUBSCRIPTION_ITEM,
    "rak_subscription_read",
    frozenset({"expand"}),
    _retrieve,
)
