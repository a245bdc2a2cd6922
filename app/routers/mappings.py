"""The mappings over REST: the same as `meterbridge mappings`."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field

from app.errors import (
    DatabaseUnavailable,
    InvalidMapping,
    InvalidRequest,
    NotConfigured,
    Unauthorized,
)
from app.mapping.file import MappingFile, to_mappings
from app.mapping.fitting import whole_periods
from app.mapping.models import MeterMapping, SubjectMapping
from app.mapping.plan import changes
from app.routers.access import Built, require_admin
from app.routers.problems import responses

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


class Applied(BaseModel):
    """What was changed, or would be."""

    dry_run: bool
    changes: list[ChangeView]
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
    "", summary="Apply mappings", responses=responses(400, 413, InvalidRequest, InvalidMapping)
)
async def apply_mappings(
    built: Built,
    file: MappingFile,
    dry_run: Annotated[bool, Query(description="Only say what would change.")] = False,  # noqa: FBT002
) -> Applied:
    """Make the mappings of what the body names equal to it; what it does not name stays.

    Idempotent, all or nothing. Windows that were parked for want of these mappings are booked.
    A meter whose aggregation does not fit the `aggregate_usage` of its price is refused, where
    both have been seen.
    """
    wanted = to_mappings(file)
    applied = (
        await built.mappings.preview(wanted)
        if dry_run
        else await built.mappings.replace(wanted, now=built.clock.now())
    )
    unasked = whole_periods(wanted, openmeter_api=built.settings.openmeter_api_url is not None)
    return Applied(
        dry_run=dry_run,
        changes=[
            ChangeView(kind=c.kind, name=c.name, before=c.before, after=c.after)
            for c in changes(applied.before, wanted)
        ],
        notes=[
            NoteView(meter=n.meter, groups=n.groups, message=n.message)
            for n in (*applied.notes, *unasked)
        ],
    )
