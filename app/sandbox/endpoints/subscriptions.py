"""/v1/subscriptions."""

from app.sandbox import parameters, rendering
from app.sandbox.drafts import LATEST, ItemDraft, SubscriptionDraft
from app.sandbox.endpoints.endpoint import Call, Endpoint
from app.sandbox.errors import invalid_value, missing_parameter
from app.sandbox.form import Value
from app.sandbox.objects import MissingPaymentMethod, Subscription, SubscriptionStatus
from app.sandbox.operations import Operation
from app.sandbox.paging import PAGING, page
from app.sandbox.sandbox import Sandbox
from app.sandbox.wire import Execution, JsonObject

_ALL = "all"
_DAY = 86_400
_ENDED = "ended"


def rendered(sandbox: Sandbox, found: Subscription, version: str) -> JsonObject:
    """A subscription as the API shows it."""
    prices = {item.id: sandbox.account.price(item.price) for item in found.live_items}
    return rendering.subscription(found, prices, version)


def _list(sandbox: Sandbox, call: Call) -> Execution:
    asked = call.parameters
    customer = parameters.text(asked, "customer")
    price = parameters.text(asked, "price")
    status = parameters.choice(asked, "status", [*SubscriptionStatus, _ALL, _ENDED])

    def wanted(found: Subscription) -> bool:
        return (
            customer in {None, found.customer}
            and _has_status(found, status)
            and (price is None or any(item.price == price for item in found.live_items))
        )

    def execute() -> JsonObject:
        if customer is not None:
            sandbox.account.customer(customer, param="customer")
        found = [entry for entry in sandbox.account.subscriptions() if wanted(entry)]
        shown, has_more = page(found, asked, "subscription")
        documents = [rendered(sandbox, entry, call.version) for entry in shown]
        return rendering.listing(call.path, documents, has_more=has_more)

    return execute


def _has_status(found: Subscription, status: str | None) -> bool:
    if status == _ALL:
        return True
    if status is None:
        return found.status is not SubscriptionStatus.CANCELED
    return found.ended if status == _ENDED else found.status == status


def _retrieve(sandbox: Sandbox, call: Call) -> Execution:
    return lambda: rendered(sandbox, sandbox.account.subscription(call.object_id), call.version)


def _create(sandbox: Sandbox, call: Call) -> Execution:
    asked = call.parameters
    items = parameters.sequence(asked, "items")
    if not items:
        raise missing_parameter("items")
    thresholds = parameters.mapping(asked, "billing_thresholds")
    end_behavior = parameters.mapping(parameters.mapping(asked, "trial_settings"), "end_behavior")
    trial_days = parameters.integer(asked, "trial_period_days", least=1, greatest=730)
    trial_end = parameters.integer(asked, "trial_end", greatest=LATEST)
    if trial_days is not None:
        trial_end = sandbox.clock.now() + trial_days * _DAY
    draft = SubscriptionDraft(
        customer=parameters.required_text(asked, "customer"),
        items=[_item(item) for item in items],
        start_date=parameters.integer(asked, "backdate_start_date", greatest=LATEST),
        billing_cycle_anchor=parameters.integer(asked, "billing_cycle_anchor", greatest=LATEST),
        trial_end=trial_end,
        missing_payment_method=MissingPaymentMethod(
            parameters.choice(end_behavior, "missing_payment_method", MissingPaymentMethod)
            or MissingPaymentMethod.CREATE_INVOICE
        ),
        cancel_at=parameters.integer(asked, "cancel_at", greatest=LATEST),
        cancel_at_period_end=parameters.boolean(asked, "cancel_at_period_end") or False,
        amount_gte=parameters.integer(thresholds, "amount_gte", least=1),
        reset_billing_cycle_anchor=parameters.boolean(thresholds, "reset_billing_cycle_anchor")
        or False,
        metadata=parameters.metadata(asked),
    )
    return lambda: rendered(sandbox, sandbox.account.create_subscription(draft), call.version)


def _item(value: Value) -> ItemDraft:
    if isinstance(value, str):
        raise invalid_value("items", "Invalid array: expected objects")
    parameters.only(value, frozenset({"price", "quantity", "billing_thresholds", "metadata"}))
    thresholds = parameters.mapping(value, "billing_thresholds")
    return ItemDraft(
        price=parameters.required_text(value, "price"),
        quantity=parameters.integer(value, "quantity"),
        usage_gte=parameters.integer(thresholds, "usage_gte", least=1),
        metadata=parameters.metadata(value),
    )


LIST = Endpoint(
    Operation.LIST_SUBSCRIPTIONS,
    "rak_subscription_read",
    PAGING | {"customer", "price", "status"},
    _list,
)
RETRIEVE = Endpoint(
    Operation.RETRIEVE_SUBSCRIPTION, "rak_subscription_read", frozenset({"expand"}), _retrieve
)
CREATE = Endpoint(
    Operation.CREATE_SUBSCRIPTION,
    "rak_subscription_write",
    frozenset(
        {
            "backdate_start_date",
            "billing_cycle_anchor",
            "billing_thresholds",
            "cancel_at",
            "cancel_at_period_end",
            "customer",
            "expand",
            "items",
            "metadata",
            "trial_end",
            "trial_period_days",
            "trial_settings",
        }
    ),
    _create,
    writes=True,
)
