"""/v1/subscription_items/{item}/usage_records and .../usage_record_summaries."""

from app.sandbox import errors, parameters, rendering, usage
from app.sandbox.endpoints.endpoint import Call, Endpoint
from app.sandbox.form import Parameters
from app.sandbox.ledger import ExecutedCall
from app.sandbox.objects import UsageType
from app.sandbox.operations import Operation
from app.sandbox.paging import PAGING, page
from app.sandbox.sandbox import Sandbox
from app.sandbox.summaries import summaries
from app.sandbox.usage_refusals import price_has_meter, price_is_licensed
from app.sandbox.wire import Execution, JsonObject

# Usage records, their summaries and aggregate_usage left the API in 2025-03-31.basil.
_GONE_SINCE = "2025-03-31"
_NOW = "now"


def _create(sandbox: Sandbox, call: Call) -> Execution:
    quantity = parameters.required_integer(call.parameters, "quantity")
    action = (
        parameters.choice(call.parameters, "action", (usage.INCREMENT, usage.SET))
        or usage.INCREMENT
    )
    timestamp = _timestamp(call.parameters)
    return lambda: record(
        sandbox,
        call.object_id,
        quantity=quantity,
        action=action,
        timestamp=timestamp,
        idempotency_key=call.idempotency_key,
        request_id=call.request_id,
    )


def _timestamp(asked: Parameters) -> int | None:
    value = parameters.text(asked, "timestamp")
    if value is None or value == _NOW:
        return None
    try:
        return parameters.integer(asked, "timestamp")
    except errors.StripeError as error:
        raise errors.invalid_value(
            "timestamp", "Invalid timestamp: must be an integer Unix timestamp"
        ) from error


def record(
    sandbox: Sandbox,
    item_id: str,
    *,
    quantity: int,
    action: str,
    timestamp: int | None,
    idempotency_key: str | None = None,
    request_id: str = "",
) -> JsonObject:
    """Execute one call: the record that now stands, as the API shows it.

    `timestamp` None is now. Raises StripeError as the API refuses. It knows of no key, fault, limit
    or lock: simulations call it directly, because an HTTP client costs a hundred times as much.
    """
    account = sandbox.account
    item = account.item(item_id)
    subscription = account.subscription(item.subscription)
    price = account.price(item.price)
    refusal = usage.refusal(item, subscription, price, action)
    if refusal is not None:
        raise refusal
    now = sandbox.clock.now()
    at = now if timestamp is None else timestamp
    period = usage.period_of(
        at,
        now=now,
        item=item,
        subscription=subscription,
        price=price,
        settings=sandbox.settings,
    )
    stands = usage.put(item, period=period, timestamp=at, quantity=quantity, action=action)
    sandbox.ledger.add(
        ExecutedCall(
            subscription_item=item.id,
            subscription=subscription.id,
            timestamp=at,
            period_start=subscription.periods[period].start,
            quantity=quantity,
            action=action,
            idempotency_key=idempotency_key,
            request_id=request_id,
            at=now,
        ),
        keep=sandbox.settings.ledger_keeps,
    )
    identifier = sandbox.ids.new("mbur")
    return rendering.usage_record(identifier, item, timestamp=at, quantity=stands)


def _list_summaries(sandbox: Sandbox, call: Call) -> Execution:
    def execute() -> JsonObject:
        item = sandbox.account.item(call.object_id)
        price = sandbox.account.price(item.price)
        if price.recurring.meter is not None:
            raise price_has_meter(item.id, "list usage record summaries")
        if price.recurring.usage_type is UsageType.LICENSED:
            raise price_is_licensed(item.id, "list usage record summaries")
        subscription = sandbox.account.subscription(item.subscription)
        found = summaries(item, subscription, price)
        shown, has_more = page(found, call.parameters, "usage record summary")
        return rendering.listing(
            call.path, [summary.document() for summary in shown], has_more=has_more
        )

    return execute


CREATE = Endpoint(
    Operation.CREATE_USAGE_RECORD,
    "rak_usage_record_write",
    frozenset({"quantity", "timestamp", "action", "expand"}),
    _create,
    writes=True,
    gone_since=_GONE_SINCE,
)
LIST_SUMMARIES = Endpoint(
    Operation.LIST_USAGE_RECORD_SUMMARIES,
    "rak_usage_record_read",
    PAGING,
    _list_summaries,
    gone_since=_GONE_SINCE,
)
