"""What an endpoint is."""

from collections.abc import Callable
from dataclasses import dataclass

from app.sandbox.form import Parameters
from app.sandbox.operations import Operation
from app.sandbox.sandbox import Sandbox
from app.sandbox.wire import Execution


@dataclass(frozen=True, slots=True)
class Call:
    """One call of an endpoint: everything but the state it works on."""

    request_id: str
    path: str
    object_id: str
    parameters: Parameters
    version: str
    idempotency_key: str | None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One operation.

    `prepare` validates the parameters (StripeError: nothing was executed) and gives back what
    is to be executed (StripeError from that: executed, and refused). `gone_since` is the date
    of the first API version that no longer has the operation.
    """

    operation: Operation
    permission: str
    parameters: frozenset[str]
    prepare: Callable[[Sandbox, Call], Execution]
    writes: bool = False
    gone_since: str | None = None
