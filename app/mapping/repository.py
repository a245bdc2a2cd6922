"""The mappings in the database. The only place that speaks SQL about them.

Booking holds the mapping lock shared and applying holds it alone, so that no window is booked or
parked by a mapping that was changed a moment ago. A changed mapping releases what waited for it in
the same transaction.
"""

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from fractions import Fraction
from typing import Any

from sqlalchemy import Row, delete, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.db import among, transaction
from app.mapping.file import Mappings
from app.mapping.models import (
    LatePolicy,
    MeterMapping,
    PriceSelector,
    RecordPer,
    Rounding,
    SubjectMapping,
    TimestampRule,
)
from app.mapping.releases import ask
from app.tables import mapping_version, meter_mappings, subject_mappings

MAPPING_LOCK = 7_261_946_002
CHANNEL = "meterbridge_mappings"
# NOTIFY takes at most 8,000 bytes; beyond this many keys "all" is said instead.
MAX_NOTIFIED = 50


async def share_lock(connection: AsyncConnection) -> int:
    """Keep the mappings as they are until the transaction ends; returns their version."""
    await connection.execute(
        text("select pg_advisory_xact_lock_shared(:key)"), {"key": MAPPING_LOCK}
    )
    version: int = (await connection.execute(select(mapping_version.c.version))).scalar_one()
    return version


class MappingRepository:
    """Loads and replaces mappings."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def subjects(self, subjects: Sequence[str]) -> dict[str, tuple[SubjectMapping, ...]]:
        """The mappings of some subjects."""
        async with transaction(self._engine) as connection:
            return await _subjects(connection, subjects)

    async def meters(self, meters: Sequence[str]) -> dict[str, tuple[MeterMapping, ...]]:
        """The mappings of some meters."""
        async with transaction(self._engine) as connection:
            return await _meters(connection, meters)

    async def everything(self) -> Mappings:
        """All mappings."""
        async with transaction(self._engine) as connection:
            return Mappings(await _meters(connection, None), await _subjects(connection, None))

    async def named_in(self, wanted: Mappings) -> Mappings:
        """The present mappings of what `wanted` names."""
        async with transaction(self._engine) as connection:
            return await _named_in(connection, wanted)

    async def replace(self, wanted: Mappings, *, now: datetime) -> Mappings:
        """Make the mappings of what `wanted` names equal to it. Returns those that stood before.

        One transaction: replace, raise the version, release parked windows, notify replicas.
        """
        async with transaction(self._engine) as connection:
            await connection.execute(
                text("select pg_advisory_xact_lock(:key)"), {"key": MAPPING_LOCK}
            )
            before = await _named_in(connection, wanted)
            meters = {
                name: split
                for name, split in wanted.meters.items()
                if before.meters.get(name) != split
            }
            subjects = {
                name: spans
                for name, spans in wanted.subjects.items()
                if before.subjects.get(name) != spans
            }
            if meters or subjects:
                await _write_meters(connection, meters, now)
                await _write_subjects(connection, subjects, now)
                await ask(connection, "meter", meters)
                await ask(connection, "subject", subjects)
                await _notify(connection, list(meters), list(subjects))
            return before


async def _named_in(connection: AsyncConnection, wanted: Mappings) -> Mappings:
    return Mappings(
        await _meters(connection, list(wanted.meters)),
        await _subjects(connection, list(wanted.subjects)),
    )


async def _subjects(
    connection: AsyncConnection, subjects: Sequence[str] | None
) -> dict[str, tuple[SubjectMapping, ...]]:
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


async def _meters(
    connection: AsyncConnection, meters: Sequence[str] | None
) -> dict[str, tuple[MeterMapping, ...]]:
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


async def _write_meters(
    connection: AsyncConnection, meters: dict[str, tuple[MeterMapping, ...]], now: datetime
) -> None:
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


async def _write_subjects(
    connection: AsyncConnection, subjects: dict[str, tuple[SubjectMapping, ...]], now: datetime
) -> None:
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


async def _notify(
    connection: AsyncConnection, meters: Sequence[str], subjects: Sequence[str]
) -> None:
    """Raise the version and tell the replicas which keys to forget."""
    version = (
        await connection.execute(
            update(mapping_version)
            .values(version=mapping_version.c.version + 1)
            .returning(mapping_version.c.version)
        )
    ).scalar_one()
    keys = [f"m:{name}" for name in meters] + [f"s:{name}" for name in subjects]
    if len(keys) > MAX_NOTIFIED or sum(len(key.encode()) for key in keys) > 7_000:
        keys = ["*"]
    payload = "\n".join([str(version), *keys])
    await connection.execute(
        text("select pg_notify(:channel, :payload)"), {"channel": CHANNEL, "payload": payload}
    )
