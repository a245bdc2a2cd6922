"""/v1/prices."""

from app.sandbox import parameters, rendering
from app.sandbox.drafts import PriceDraft
from app.sandbox.endpoints.endpoint import Call, Endpoint
from app.sandbox.errors import missing_parameter
from app.sandbox.objects import AggregateUsage, Price, UsageType
from app.sandbox.operations import Operation
from app.sandbox.paging import PAGING, page
from app.sandbox.periods import Interval
from app.sandbox.sandbox import Sandbox
from app.sandbox.wire import Execution, JsonObject


def _list(sandbox: Sandbox, call: Call) -> Execution:
    asked = call.parameters
    active = parameters.boolean(asked, "active")
    product = parameters.text(asked, "product")
    lookup_keys = parameters.strings(asked, "lookup_keys")

    def wanted(price: Price) -> bool:
        return (
            active in {None, price.active}
            and product in {None, price.product}
            and (not lookup_keys or price.lookup_key in lookup_keys)
        )

    def execute() -> JsonObject:
        found = [price for price in sandbox.account.prices() if wanted(price)]
        shown, has_more = page(found, asked, "price")
        return rendering.listing(call.path, [rendering.price(p) for p in shown], has_more=has_more)

    return execute


def _retrieve(sandbox: Sandbox, call: Call) -> Execution:
    return lambda: rendering.price(sandbox.account.price(call.object_id))


def _create(sandbox: Sandbox, call: Call) -> Execution:
    asked = call.parameters
    recurring = parameters.mapping(asked, "recurring")
    interval = parameters.choice(recurring, "interval", Interval)
    if interval is None:
        raise missing_parameter("recurring[interval]")
    usage_type = parameters.choice(recurring, "usage_type", UsageType)
    aggregate = parameters.choice(recurring, "aggregate_usage", AggregateUsage)
    active = parameters.boolean(asked, "active")
    draft = PriceDraft(
        product=parameters.text(asked, "product"),
        currency=parameters.required_text(asked, "currency"),
        unit_amount=parameters.integer(asked, "unit_amount"),
        interval=Interval(interval),
        interval_count=parameters.integer(recurring, "interval_count", least=1, greatest=36) or 1,
        usage_type=UsageType(usage_type or UsageType.LICENSED),
        aggregate_usage=AggregateUsage(aggregate or AggregateUsage.SUM),
        meter=parameters.text(recurring, "meter"),
        lookup_key=parameters.text(asked, "lookup_key"),
        transfer_lookup_key=parameters.boolean(asked, "transfer_lookup_key") or False,
        nickname=parameters.text(asked, "nickname"),
        active=True if active is None else active,
        metadata=parameters.metadata(asked),
    )
    return lambda: rendering.price(sandbox.account.create_price(draft))


LIST = Endpoint(
    Operation.LIST_PRICES, "rak_plan_read", PAGING | {"active", "product", "lookup_keys"}, _list
)
RETRIEVE = Endpoint(Operation.RETRIEVE_PRICE, "rak_plan_read", frozenset({"expand"}), _retrieve)
CREATE = Endpoint(
    Operation.CREATE_PRICE,
    "rak_plan_write",
    frozenset(
        {
            "active",
            "currency",
            "expand",
            "lookup_key",
            "metadata",
            "nickname",
            "product",
            "product_data",
            "recurring",
            "transfer_lookup_key",
            "unit_amount",
        }
    ),
    _create,
    writes=True,
)
