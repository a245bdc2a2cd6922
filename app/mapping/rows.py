"""The rows of mappings: read and written within a transaction of the repository's."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from fractions import Fraction
from typing import Any

from sqlalchemy import Row, delete, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import among
from app.mapping.models import (
    LatePolicy,
    MeterMapping,
    PriceSelector,
    RecordPer,
    Rounding,
    SubjectMapping,
    TimestampRule,
)
from app.tables import meter_mappings, subject_mappings


async def read_subjects(
    connection: AsyncConnection, subjects: Sequence[str] | None
) -> dict[str, tuple[SubjectMapping, ...]]:
    """The mappings of some subjects, of all where `subjects` is None; by subject and start."""
    query = select(subject_mappings).order_by(
        subject_mappings.c.subject, subject_mappings.c.valid_from.nulls_first()
    )
    if subjects is not None:
        query = query.where(among(subject_mappings.c.subject, subjects))
    found: dict[str, list[SubjectMapping]] = defaultdict(list)
    for row in await connection.execute(query):
        found[row.subject].append(
            SubjectMapping(row.subject, row.subscription, row.valid_from, row.valid_to)
        )
    return {subject: tuple(spans) for subject, spans in found.items()}


async def read_meters(
    connection: AsyncConnection, meters: Sequence[str] | None
) -> dict[str, tuple[MeterMapping, ...]]:
    """The mappings of some meters, of all where `meters` is None; by meter and filter."""
    query = select(meter_mappings).order_by(meter_mappings.c.meter)
    if meters is not None:
        query = query.where(among(meter_mappings.c.meter, meters))
    found: dict[str, list[MeterMapping]] = defaultdict(list)
    for row in await connection.execute(query):
        found[row.meter].append(_meter(row))
    # By filter, in Python's order: PostgreSQL's order of JSON is another one.
    return {
        meter: tuple(sorted(split, key=lambda mapping: mapping.group_filter))
        for meter, split in found.items()
    }


def _meter(row: Row[Any]) -> MeterMapping:
    price = row.price_selector
    return MeterMapping(
        row.meter,
        PriceSelector(
            ids=frozenset(price.get("ids", ())),
            lookup_key=price.get("lookup_key"),
            metadata=tuple(sorted(price.get("metadata", {}).items())),
        ),
        Fraction(int(row.scale_numerator), int(row.scale_denominator)),
        Rounding(row.rounding),
        TimestampRule(row.timestamp_rule),
        tuple(sorted(row.group_filter.items())),
        RecordPer(row.record_per),
        None if row.late_policy is None else LatePolicy(row.late_policy),
        row.whole_period,
    )


def _selector(price: PriceSelector) -> dict[str, object]:
    if price.ids:
        return {"ids": sorted(price.ids)}
    if price.lookup_key is not None:
        return {"lookup_key": price.lookup_key}
    return {"metadata": dict(price.metadata)}


async def write_meters(
    connection: AsyncConnection, meters: Mapping[str, Sequence[MeterMapping]], now: datetime
) -> None:
    """Put these mappings in the place of all that those meters have."""
    if not meters:
        return
    await connection.execute(delete(meter_mappings).where(among(meter_mappings.c.meter, meters)))
    await connection.execute(
        insert(meter_mappings),
        [
            {
                "meter": meter.meter,
                "group_filter": dict(meter.group_filter),
                "price_selector": _selector(meter.price),
                "scale_numerator": meter.scale.numerator,
                "scale_denominator": meter.scale.denominator,
                "rounding": meter.rounding.value,
                "timestamp_rule": meter.timestamp_rule.value,
                "record_per": meter.record_per.value,
                "late_policy": None if meter.late_policy is None else meter.late_policy.value,
                "whole_period": meter.whole_period,
                "updated_at": now,
            }
            for split in meters.values()
            for meter in split
        ],
    )


async def write_subjects(
    connection: AsyncConnection, subjects: Mapping[str, Sequence[SubjectMapping]], now: datetime
) -> None:
    """Put these spans in the place of all that those subjects have."""
    if not subjects:
        return
    await connection.execute(
        delete(subject_mappings).where(among(subject_mappings.c.subject, subjects))
    )
    await connection.execute(
        insert(subject_mappings),
        [
            {
                "subject": span.subject,
                "subscription": span.subscription,
                "valid_from": span.valid_from,
                "valid_to": span.valid_to,
                "updated_at": now,
            }
            for spans in subjects.values()
            for span in spans
        ],
    )
