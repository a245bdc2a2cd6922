"""What the ledger holds, for people: the summary, windows, records, and releases."""

from datetime import UTC, datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field, model_validator

from app.dispatch.reasons import STOP_ACTIONS, HoldReason, StopReason, hold_action_of
from app.errors import DatabaseUnavailable, InvalidRequest, NotConfigured, Unauthorized
from app.mapping.reasons import ParkReason, action_of
from app.routers.access import Built, require_admin
from app.routers.problems import responses
from app.routers.usage_views import (
    DeliveryCounts,
    LineView,
    ReasonCount,
    RecordCounts,
    RecordPage,
    RecordView,
    SummaryView,
    WindowCounts,
    WindowPage,
    WindowView,
)

router = APIRouter(
    prefix="/v1",
    tags=["Usage"],
    dependencies=[Depends(require_admin)],
    responses=responses(Unauthorized, NotConfigured, DatabaseUnavailable, InvalidRequest),
)

MAX_PAGE = 500
# The largest whole number that every JSON parser keeps.
MAX_ID = 2**53 - 1


class WindowRelease(BaseModel):
    """Which parked windows to book anew: those of a reason, or those named."""

    reason: ParkReason | None = None
    ids: Annotated[list[Annotated[int, Field(ge=1, le=MAX_ID)]], Field(max_length=10_000)] = Field(
        default_factory=list
    )

    @model_validator(mode="after")
    def _something(self) -> "WindowRelease":
        if self.reason is None and not self.ids:
            raise ValueError("name a reason or ids")
        return self


class RecordRelease(BaseModel):
    """Which held records to send again: those of a reason, or those named."""

    reason: HoldReason | None = None
    ids: Annotated[list[Annotated[int, Field(ge=1, le=MAX_ID)]], Field(max_length=10_000)] = Field(
        default_factory=list
    )

    @model_validator(mode="after")
    def _something(self) -> "RecordRelease":
        if self.reason is None and not self.ids:
            raise ValueError("name a reason or ids")
        return self


class Released(BaseModel):
    """How many were released."""

    released: int


After = Annotated[int, Query(ge=0, le=MAX_ID, description="The `next_after` of the last page.")]
_Record = Annotated[int | None, Query(ge=1, le=MAX_ID, description="On this usage record.")]
Limit = Annotated[int, Query(ge=1, le=MAX_PAGE, description="Rows of a page.")]
# NUL cannot be stored, so it cannot be found either.
_Name = Annotated[str | None, Query(max_length=512, pattern=r"^[^\x00]*$")]


@router.get("/summary", summary="What is where")
async def summary(built: Built) -> SummaryView:
    """Deliveries not yet booked, records by state, windows parked by reason, oldest unsent."""
    found = await built.status.summary()
    line = await built.status.line()
    windows = WindowCounts(**_filled(WindowCounts, found.windows))
    deliveries = DeliveryCounts(**_filled(DeliveryCounts, found.deliveries))
    records = RecordCounts(**_filled(RecordCounts, found.records))
    return SummaryView(
        drained=deliveries.received == windows.pending == records.due == records.late == 0,
        deliveries=deliveries,
        windows=windows,
        parked=[
            ReasonCount(reason=reason, count=count, action=action_of(reason))
            for reason, count in found.parked.items()
        ],
        records=records,
        held=[
            ReasonCount(reason=reason, count=count, action=hold_action_of(reason))
            for reason, count in found.held.items()
        ],
        oldest_unsent=found.oldest_unsent,
        line=LineView(
            stopped=line.stopped,
            reason=line.reason,
            detail=line.detail,
            since=line.since,
            action=STOP_ACTIONS[StopReason(line.reason)] if line.reason else None,
        ),
        received=dict(built.counters),
    )


def _filled(model: type[BaseModel], counts: dict[str, int]) -> dict[str, int]:
    return {name: counts.get(name, 0) for name in model.model_fields}


@router.get("/windows", summary="Usage windows")
async def list_windows(
    built: Built,
    state: Literal["pending", "booked", "parked", "covered"] | None = None,
    reason: _Name = None,
    subject: _Name = None,
    meter: _Name = None,
    record: _Record = None,
    after: After = 0,
    limit: Limit = 100,
) -> WindowPage:
    """By id; parked ones say why, and what releases them."""
    rows = await built.status.windows(
        state=state,
        reason=reason,
        subject=subject,
        meter=meter,
        record=record,
        after=after,
        limit=limit,
    )
    data = [
        WindowView(
            id=row.id,
            meter=row.meter,
            subject=row.subject,
            group_by=row.group_by,
            window_start=row.window_start,
            window_end=row.window_end,
            aggregation=row.aggregation,
            value=row.value,
            source=row.source,
            state=row.state,
            reason=row.reason,
            detail=row.detail,
            action=action_of(row.reason) if row.state == "parked" and row.reason else None,
            svix_id=row.svix_id,
            revision=row.revision,
            usage_record_id=row.usage_record_id,
            slipped_from=row.slipped_from,
            slipped_to=row.slipped_to,
        )
        for row in rows
    ]
    return WindowPage(data=data, next_after=data[-1].id if len(data) == limit else None)


@router.get("/records", summary="Usage records")
async def list_records(
    built: Built,
    state: Literal["due", "reported", "late", "held"] | None = None,
    reason: _Name = None,
    subscription: _Name = None,
    after: After = 0,
    limit: Limit = 100,
) -> RecordPage:
    """By id; held ones say why, and what to do."""
    rows = await built.status.records(
        state=state, reason=reason, subscription=subscription, after=after, limit=limit
    )
    data = [
        RecordView(
            id=row.id,
            subscription=row.subscription,
            subscription_item=row.subscription_item,
            timestamp=datetime.fromtimestamp(row.timestamp, UTC),
            wanted_quantity=row.wanted_quantity,
            reported_quantity=row.reported_quantity,
            state=row.state,
            reason=row.reason,
            detail=row.detail,
            action=hold_action_of(row.reason) if row.state == "held" and row.reason else None,
            due_at=row.due_at,
            revision=row.revision,
            failures=row.failures,
            in_doubt=row.in_doubt,
        )
        for row in rows
    ]
    return RecordPage(data=data, next_after=data[-1].id if len(data) == limit else None)


@router.post("/windows/release", summary="Book parked windows anew", responses=responses(400, 413))
async def release_windows(built: Built, release: WindowRelease) -> Released:
    """What still cannot be booked is parked again."""
    count = await built.status.release_windows(
        reason=release.reason.value if release.reason else None, ids=release.ids
    )
    if built.workshop is not None:
        built.workshop.booking.wake()
    return Released(released=count)


@router.post("/records/release", summary="Send held records again", responses=responses(400, 413))
async def release_records(built: Built, release: RecordRelease) -> Released:
    """A record whose cause is not gone is held again."""
    count = await built.status.release_records(
        reason=release.reason.value if release.reason else None,
        ids=release.ids,
        now=built.clock.now(),
    )
    if built.workshop is not None:
        built.workshop.dispatcher.wake()
    return Released(released=count)
