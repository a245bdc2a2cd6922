"""/v1/customers."""

from app.sandbox import parameters, rendering
from app.sandbox.drafts import CustomerDraft
from app.sandbox.endpoints.endpoint import Call, Endpoint
from app.sandbox.operations import Operation
from app.sandbox.paging import PAGING, page
from app.sandbox.sandbox import Sandbox
from app.sandbox.wire import Execution, JsonObject


def _list(sandbox: Sandbox, call: Call) -> Execution:
    email = parameters.text(call.parameters, "email")

    def execute() -> JsonObject:
        found = [c for c in sandbox.account.customers() if email in {None, c.email}]
        shown, has_more = page(found, call.parameters, "customer")
        return rendering.listing(
            call.path, [rendering.customer(c) for c in shown], has_more=has_more
        )

    return execute


def _retrieve(sandbox: Sandbox, call: Call) -> Execution:
    return lambda: rendering.customer(sandbox.account.customer(call.object_id))


def _create(sandbox: Sandbox, call: Call) -> Execution:
    draft = CustomerDraft(
        name=parameters.text(call.parameters, "name"),
        email=parameters.text(call.parameters, "email"),
        description=parameters.text(call.parameters, "description"),
        metadata=parameters.metadata(call.parameters),
    )
    return lambda: rendering.customer(sandbox.account.create_customer(draft))


LIST = Endpoint(Operation.LIST_CUSTOMERS, "rak_customer_read", PAGING | {"email"}, _list)
RETRIEVE = Endpoint(
    Operation.RETRIEVE_CUSTOMER, "rak_customer_read", frozenset({"expand"}), _retrieve
)
CREATE = Endpoint(
    Operation.CREATE_CUSTOMER,
    "rak_customer_write",
    frozenset({"name", "email", "description", "metadata", "expand"}),
    _create,
    writes=True,
)
