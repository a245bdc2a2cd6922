"""Reading back what was executed, what stands, and what was asked."""

from collections.abc import Iterator
from itertools import islice
from typing import Annotated

from fastapi import APIRouter, Query

from app.sandbox.control.models import (
    ItemTotals,
    LedgerEntry,
    LedgerPage,
    OperationCount,
    PeriodTotal,
    RequestCounts,
    Totals,
)
from app.sandbox.objects import Price, Subscription, SubscriptionItem
from app.sandbox.sandbox import Sandbox
from app.sandbox.summaries import summaries


def build_router(sandbox: Sandbox) -> APIRouter:
    """Routes that only read."""
    router = APIRouter(tags=["reading"])

    @router.get("/ledger")
    async def read_ledger(
        after: Annotated[int, Query(ge=0, description="A call's number")] = 0,
        limit: Annotated[int | None, Query(ge=1)] = None,
        subscription_item: str | None = None,
    ) -> LedgerPage:
        """Every executed usage-record call, in order."""
        calls = _calls(sandbox, after, subscription_item)
        return LedgerPage(calls=list(islice(calls, limit)), total=len(sandbox.ledger))

    @router.get("/totals")
    async def read_totals(
        subscription: str | None = None,
        subscription_item: str | None = None,
        periods: Annotated[int | None, Query(ge=1, description="How many, the newest")] = None,
    ) -> Totals:
        """Item -> period -> total and records; ended and vanished items included."""
        return Totals(
            items=[
                _totals(found, periods)
                for found in sandbox.account.items_ever()
                if subscription in {None, found[0].subscription}
                and subscription_item in {None, found[0].id}
            ]
        )

    @router.get("/requests")
    async def read_requests() -> RequestCounts:
        """How often each operation was called, and how it was answered."""
        counts = sandbox.traffic.by_operation()
        return RequestCounts(
            operations={
                name: OperationCount.model_validate(count) for name, count in counts.items()
            }
        )

    return router


def _calls(sandbox: Sandbox, after: int, item: str | None) -> Iterator[LedgerEntry]:
    for number, call in sandbox.ledger.after(after):
        if item in {None, call.subscription_item}:
            yield LedgerEntry.model_validate({"number": number, **call._asdict()})


def _totals(found: tuple[SubscriptionItem, Subscription, Price], periods: int | None) -> ItemTotals:
    item, subscription, price = found
    return ItemTotals(
        subscription_item=item.id,
        subscription=subscription.id,
        price=price.id,
        state=item.state,
        periods=[
            PeriodTotal(
                start=summary.period.start,
                end=summary.period.end,
                closed=summary.closed,
                invoice=summary.period.invoice,
                total_usage=summary.total_usage,
                records=dict(sorted(summary.records.items())),
            )
            for summary in summaries(item, subscription, price)[:periods]
        ],
    )
