"""Settling by hand whether Stripe counted an increment, where its totals do not tell."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path
from pydantic import BaseModel, Field, StrictBool

from app.db import transaction
from app.dispatch.doubt_records import settle_doubt
from app.errors import DatabaseUnavailable, InvalidRequest, NotConfigured, NotFound, Unauthorized
from app.routers.access import Built, require_admin
from app.routers.problems import responses

router = APIRouter(
    prefix="/v1/records",
    tags=["Usage"],
    dependencies=[Depends(require_admin)],
    responses=responses(Unauthorized, NotConfigured, DatabaseUnavailable, InvalidRequest),
)

# The largest whole number that every JSON parser keeps.
MAX_ID = 2**53 - 1


class Settlement(BaseModel):
    """What an operator found at Stripe."""

    executed: StrictBool = Field(description="Whether Stripe counted the increment.")


class SettledRecord(BaseModel):
    """A record whose increment is in doubt no more."""

    id: int
    state: str = Field(
        description="`due` and `late` where Stripe does not hold what is owed.", examples=["due"]
    )
    reported_quantity: int = Field(description="What Stripe holds.")


@router.post(
    "/{id}/settle",
    summary="Settle an increment in doubt",
    responses=responses(NotFound, 400, 413),
)
async def settle_record(
    built: Built,
    record: Annotated[int, Path(alias="id", ge=1, le=MAX_ID)],
    settlement: Settlement,
) -> SettledRecord:
    """For a record held as `in_doubt`: executed, its quantity is reported; else it is sent anew."""
    async with transaction(built.engine) as connection:
        settled = await settle_doubt(
            connection, record, executed=settlement.executed, now=built.clock.now()
        )
    if settled is None:
        raise NotFound("no record with this id is held as in_doubt")
    if built.workshop is not None:
        built.workshop.dispatcher.wake()
    return SettledRecord(id=settled.id, state=settled.state, reported_quantity=settled.reported)
