"""Injecting faults."""

from typing import Annotated

from fastapi import APIRouter, Body

from app.sandbox.fault_kinds import ActiveFault, AnyFault
from app.sandbox.sandbox import Sandbox

_EXAMPLES = [
    {
        "kind": "cut",
        "when": "after_execution",
        "match": {"operation": "create_usage_record"},
        "times": 1,
    }
]


def build_router(sandbox: Sandbox) -> APIRouter:
    """Routes of faults."""
    router = APIRouter(prefix="/faults", tags=["faults"])

    @router.post("", status_code=201)
    async def inject_fault(
        fault: Annotated[AnyFault, Body(examples=_EXAMPLES)],
    ) -> ActiveFault:
        """Inject a fault. It meets the next matching request, `times` times."""
        return sandbox.faults.inject(fault)

    @router.get("")
    async def list_faults() -> list[ActiveFault]:
        """All faults and what they have met, spent ones included."""
        return sandbox.faults.listed()

    @router.delete("", status_code=204)
    async def clear_faults() -> None:
        """Take all faults away."""
        sandbox.faults.clear()

    @router.delete("/{fault_id}", status_code=204)
    async def clear_fault(fault_id: str) -> None:
        """Take one fault away."""
        sandbox.faults.clear(fault_id)

    return router
