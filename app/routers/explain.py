"""From an invoice line to the webhooks behind it, in one page."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from app.errors import DatabaseUnavailable, InvalidRequest, NotConfigured, NotFound, Unauthorized
from app.ledger.explaining import ExplainingRepository
from app.ledger.explanation import explain
from app.ledger.selection import select
from app.routers.access import Built, require_admin
from app.routers.explain_views import ExplanationView
from app.routers.problems import responses

router = APIRouter(
    prefix="/v1/usage",
    tags=["Usage"],
    dependencies=[Depends(require_admin)],
    responses=responses(Unauthorized, NotConfigured, DatabaseUnavailable, InvalidRequest),
)

PARAMETERS = {name: f"query.{name}" for name in ("item", "period", "subject", "at", "after")}

_Name = Annotated[str | None, Query(min_length=1, max_length=512, pattern=r"^[^\x00]*$")]
_Moment = Annotated[
    str | None,
    Query(
        max_length=40,
        description="A date, an RFC 3339 time or Unix seconds.",
        examples=["2026-03-15"],
    ),
]


@router.get(
    "/explain", summary="Explain an invoice line", responses=responses(InvalidRequest, NotFound)
)
async def explain_usage(
    built: Built,
    item: _Name = None,
    period: _Moment = None,
    subject: _Name = None,
    at: _Moment = None,
    after: Annotated[
        int | None,
        Query(ge=0, le=2**53 - 1, description="The `next_after` of the last page; with `item`."),
    ] = None,
    stripe: Annotated[bool, Query(description="Ask Stripe for its own total, too.")] = True,  # noqa: FBT002
) -> ExplanationView:
    """An item and a moment inside its billing period, or a subject and a day (UTC).

    Down to the windows, their deliveries, the attempts and Stripe's request ids; what was carried;
    and what is parked or held. Asks Stripe once for each of at most three items.
    """
    explanation = await explain(
        ExplainingRepository(built.engine),
        built.workshop.client if built.workshop is not None else None,
        select(item=item, period=period, subject=subject, at=at, after=after, names=PARAMETERS),
        now=built.clock.now(),
        ask_stripe=stripe,
    )
    return ExplanationView.of(explanation)
