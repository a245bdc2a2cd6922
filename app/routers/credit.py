"""Saying that what was billed too much has been credited to the customer."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path
from pydantic import BaseModel, Field

from app.db import transaction
from app.errors import DatabaseUnavailable, InvalidRequest, NotConfigured, NotFound, Unauthorized
from app.ledger.crediting import credit
from app.routers.access import Built, require_admin
from app.routers.doubt import MAX_ID
from app.routers.problems import responses

router = APIRouter(
    prefix="/v1/records",
    tags=["Usage"],
    dependencies=[Depends(require_admin)],
    responses=responses(Unauthorized, NotConfigured, DatabaseUnavailable, InvalidRequest),
)


class CreditedRecord(BaseModel):
    """A record that owes nothing any more."""

    id: int
    quantity: int = Field(description="Units that the customer was credited.", examples=[3])


@router.post(
    "/{id}/credit", summary="Settle what was credited by hand", responses=responses(NotFound, 400)
)
async def credit_record(
    built: Built, record: Annotated[int, Path(alias="id", ge=1, le=MAX_ID)]
) -> CreditedRecord:
    """For a record held as `credit_due`, after the credit note: nothing is owed for it any more."""
    async with transaction(built.engine) as connection:
        credited = await credit(connection, record, now=built.clock.now())
    if credited is None:
        raise NotFound("no record with this id is held as credit_due")
    return CreditedRecord(id=credited.id, quantity=credited.quantity)
