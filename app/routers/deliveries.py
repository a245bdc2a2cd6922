"""Deliveries that wait for somebody: which, why, and what releases them."""

from datetime import datetime
from typing import Literal

from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field

from app.db import transaction
from app.errors import DatabaseUnavailable, InvalidRequest, NotConfigured, Unauthorized
from app.ledger.set_aside import deliveries_set_aside
from app.routers.access import Built, require_admin
from app.routers.problems import responses
from app.routers.usage import After, Limit, Released

router = APIRouter(
    prefix="/v1/deliveries",
    tags=["Usage"],
    dependencies=[Depends(require_admin)],
    responses=responses(Unauthorized, NotConfigured, DatabaseUnavailable, InvalidRequest),
)

ACTIONS = {
    "rejected": "Mend its cause where it is sent, then have OpenMeter resend this message.",
    "failed": "Mend what the log says of it, then POST /v1/deliveries/release.",
}


class FaultView(BaseModel):
    """One thing that is wrong; `path` is empty where it is the whole."""

    path: str = Field(examples=["usage.0.windowEnd"])
    message: str


class DeliveryView(BaseModel):
    """A delivery that waits for somebody: `svix_id` is its message at the sender."""

    id: int
    svix_id: str
    state: str
    received_at: datetime
    settled_at: datetime | None = Field(description="When it was set aside.")
    faults: list[FaultView]
    action: str


class DeliveryPage(BaseModel):
    """A page of deliveries; `next_after` is null on the last."""

    data: list[DeliveryView]
    next_after: int | None


@router.get("", summary="Deliveries that wait for somebody")
async def list_deliveries(
    built: Built,
    state: Literal["rejected", "failed"] | None = None,
    after: After = 0,
    limit: Limit = 100,
) -> DeliveryPage:
    """By id: those answered 422 (`rejected`), and those that could not be booked (`failed`)."""
    async with transaction(built.engine) as connection:
        rows = await deliveries_set_aside(connection, state=state, after=after, limit=limit)
    data = [
        DeliveryView(
            id=row.id,
            svix_id=row.svix_id,
            state=row.state,
            received_at=row.received_at,
            settled_at=row.settled_at,
            faults=[FaultView.model_validate(fault) for fault in row.faults],
            action=ACTIONS[row.state],
        )
        for row in rows
    ]
    return DeliveryPage(data=data, next_after=data[-1].id if len(data) == limit else None)


@router.post("/release", summary="Book failed deliveries anew")
async def release_deliveries(built: Built) -> Released:
    """Those that raised an error nobody foresaw, after the program was mended."""
    count = await built.status.release_deliveries()
    if built.workshop is not None:
        built.workshop.booking.wake()
    return Released(released=count)
