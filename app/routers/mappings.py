"""The mappings over REST: the same as `meterbridge mappings`."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field

from app.errors import (
    DatabaseUnavailable,
    InvalidMapping,
    InvalidRequest,
    MovesBilledUsage,
    NotConfigured,
    Unauthorized,
)
from app.mapping.file import MappingFile, to_mappings
from app.mapping.fitting import whole_periods
from app.mapping.models import MeterMapping, SubjectMapping
from app.mapping.moving import Move
from app.mapping.plan import changes
from app.mapping.units import exact_text
from app.routers.access import Built, require_admin
from app.routers.problems import responses

MOST_LISTED = 100

router = APIRouter(
    prefix="/v1/mappings",
    tags=["Mappings"],
    dependencies=[Depends(require_admin)],
    responses=responses(Unauthorized, NotConfigured, DatabaseUnavailable, InvalidRequest),
)


class MeterView(BaseModel):
    """A meter, or the windows of it that have some groups, and the price that bills them."""

    meter: str = Field(examples=["ai_prompt_tokens"])
    groups: dict[str, str] | None = Field(
        description="Null: all windows, or those that no other mapping of the meter takes.",
        examples=[{"model": "gpt-4"}],
    )
    price_ids: list[str] | None = Field(None, examples=[["price_tokens"]])
    lookup_key: str | None = None
    metadata: dict[str, str] | None = None
    scale: str = Field(description="Units per value, exact.", examples=["1/1000"])
    rounding: str = Field(examples=["half_up"])
    timestamp: str = Field(examples=["inside"])
    record_per: str = Field(examples=["window"])
    late: str | None = Field(description="Null: as LATE_POLICY says.", examples=["hold"])
    whole_period: bool

    @classmethod
    def of(cls, mapping: MeterMapping) -> "MeterView":
        """The view of a mapping."""
        return cls(
            meter=mapping.meter,
            groups=dict(mapping.group_filter) or None,
            price_ids=sorted(mapping.price.ids) or None,
            lookup_key=mapping.price.lookup_key,
            metadata=dict(mapping.price.metadata) or None,
            scale=str(mapping.scale),
            rounding=mapping.rounding,
            timestamp=mapping.timestamp_rule,
            record_per=mapping.record_per,
            late=mapping.late_policy,
            whole_period=mapping.whole_period,
        )


class SubjectView(BaseModel):
    """A subject and the subscription that pays for it in [valid_from, valid_to)."""

    subject: str = Field(examples=["customer-1"])
    subscription: str = Field(examples=["sub_1"])
    valid_from: datetime | None
    valid_to: datetime | None

    @classmethod
    def of(cls, mapping: SubjectMapping) -> "SubjectView":
        """The view of a mapping."""
        return cls(
            subject=mapping.subject,
            subscription=mapping.subscription,
            valid_from=mapping.valid_from,
            valid_to=mapping.valid_to,
        )


class MappingsView(BaseModel):
    """All mappings."""

    meters: list[MeterView]
    subjects: list[SubjectView]


class ChangeView(BaseModel):
    """One thing that an apply adds or changes; `before` is empty where it is new."""

    kind: str = Field(examples=["subject"])
    name: str = Field(examples=["customer-1"])
    before: str = Field(examples=[""])
    after: str = Field(examples=["sub_1"])


class NoteView(BaseModel):
    """What should be known of a meter's mapping that is applied nevertheless."""

    meter: str = Field(examples=["ai_prompt_tokens"])
    groups: str = Field(description="Of a split meter: which mapping.", examples=["model=gpt-4"])
    message: str = Field(examples=["not checked: no window of this meter has been seen"])


class MoveView(BaseModel):
    """Booked windows of an item's billing period that move to another place."""

    subscription: str = Field(examples=["sub_1"])
    subscription_item: str = Field(examples=["si_1"])
    period_start: datetime
    period_end: datetime
    to_subscription: str = Field(examples=["sub_2"])
    to_price: str = Field(examples=["price price_tokens"])
    windows: int = Field(examples=[12])
    at_stripe: int = Field(
        description="How many of them stand on records of which Stripe holds something.",
        examples=[12],
    )
    amount: str = Field(description="Units as they are booked, exact.", examples=["1234.5"])
    obstacle: str | None = Field(
        description="Why what Stripe holds cannot come down; null: it can. Refused without force.",
        examples=["period_closed"],
    )

    @classmethod
    def of(cls, move: Move) -> "MoveView":
        """The view of a move."""
        return cls(
            subscription=move.subscription,
            subscription_item=move.subscription_item,
            period_start=move.period_start,
            period_end=move.period_end,
            to_subscription=move.to_subscription,
            to_price=move.to_price,
            windows=move.windows,
            at_stripe=move.at_stripe,
            amount=exact_text(move.amount),
            obstacle=move.obstacle,
        )


class StayView(BaseModel):
    """Booked windows whose place is another one now, or none, and that stay where they are."""

    subscription: str = Field(examples=["sub_1"])
    subscription_item: str = Field(examples=["si_1"])
    windows: int = Field(examples=[3])
    why: str = Field(examples=["no mapping of their subject is valid at their time any more"])


class Applied(BaseModel):
    """What was changed, or would be. Of moves and stays at most 100 each are listed."""

    dry_run: bool
    changes: list[ChangeView]
    windows_moved: int = Field(description="Booked windows that move, in all.", examples=[12])
    moves: list[MoveView]
    stays: list[StayView]
    notes: list[NoteView]


@router.get("", summary="List all mappings")
async def list_mappings(built: Built) -> MappingsView:
    """Meters and subjects, by name."""
    everything = await built.mappings.everything()
    return MappingsView(
        meters=[MeterView.of(mapping) for split in everything.meters.values() for mapping in split],
        subjects=[SubjectView.of(span) for spans in everything.subjects.values() for span in spans],
    )


@router.put(
    "",
    summary="Apply mappings",
    responses=responses(400, 413, InvalidRequest, InvalidMapping, MovesBilledUsage),
)
async def apply_mappings(
    built: Built,
    file: MappingFile,
    dry_run: Annotated[bool, Query(description="Only say what would change.")] = False,  # noqa: FBT002
    force: Annotated[  # noqa: FBT002
        bool,
        Query(
            description="Also where usage moves that is billed for good: it is billed at its new "
            "place, and what it leaves behind is held, to be credited by hand."
        ),
    ] = False,
) -> Applied:
    """Make the mappings of what the body names equal to it; what it does not name stays.

    Idempotent, all or nothing. Windows that were parked for want of these mappings are booked.
    A meter whose aggregation does not fit the `aggregate_usage` of its price is refused, where
    both have been seen.

    Booked usage that has another place by the new mappings is taken off its records, which are sent
    first, and booked anew. Where what Stripe holds cannot come down, that is refused without
    `force`; a dry run lists it with its obstacle.
    """
    wanted = to_mappings(file)
    applied = (
        await built.mappings.preview(wanted, now=built.clock.now())
        if dry_run
        else await built.mappings.replace(wanted, now=built.clock.now(), force=force)
    )
    unasked = whole_periods(wanted, openmeter_api=built.settings.openmeter_api_url is not None)
    return Applied(
        dry_run=dry_run,
        changes=[
            ChangeView(kind=c.kind, name=c.name, before=c.before, after=c.after)
            for c in changes(applied.before, wanted)
        ],
        windows_moved=applied.moves.windows,
        moves=[MoveView.of(move) for move in applied.moves.moves[:MOST_LISTED]],
        stays=[
            StayView(
                subscription=stay.subscription,
                subscription_item=stay.subscription_item,
                windows=stay.windows,
                why=stay.why,
            )
            for stay in applied.moves.stays[:MOST_LISTED]
        ],
        notes=[
            NoteView(meter=n.meter, groups=n.groups, message=n.message)
            for n in (*applied.notes, *unasked)
        ],
    )
