"""The mappings in the database.

Booking holds the mapping lock shared and applying holds it alone, so that no window is booked or
parked by a mapping that was changed a moment ago. A changed mapping releases what waited for it in
the same transaction.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.db import text, transaction
from app.errors import InvalidMapping
from app.mapping.file import MAX_FAULTS, Mappings
from app.mapping.fitting import MappingNote, Seen, fit
from app.mapping.models import MeterMapping, SubjectMapping
from app.mapping.moving import Moves
from app.mapping.releases import ask
from app.mapping.remapping import remap
from app.mapping.rows import read_meters, read_subjects, write_meters, write_subjects
from app.mapping.seen import what_was_seen
from app.tables import mapping_version

MAPPING_LOCK = 7_261_946_002
CHANNEL = "meterbridge_mappings"
# NOTIFY takes at most 8,000 bytes; beyond this many keys "all" is said instead.
MAX_NOTIFIED = 50


@dataclass(frozen=True, slots=True)
class AppliedMappings:
    """What applying mappings found: those that stood before, and what is to be known of the new.

    `moves`: usage that stands at Stripe, or is to, and has another place now. `left_out`: what
    stood for names that were to be mapped only if they are new.
    """

    before: Mappings
    notes: tuple[MappingNote, ...] = ()
    moves: Moves = field(default_factory=Moves)
    left_out: Mappings = field(default_factory=lambda: Mappings({}, {}))


_SHARE: Final = text("select pg_advisory_xact_lock_shared(:key)")


async def hold_mappings(connection: AsyncConnection) -> None:
    """Keep the mappings as they are until the transaction ends.

    Their version is what a later statement reads: this one may have begun before the lock was had.
    """
    await connection.execute(_SHARE, {"key": MAPPING_LOCK})


async def share_lock(connection: AsyncConnection) -> int:
    """Keep the mappings as they are until the transaction ends; returns their version."""
    await hold_mappings(connection)
    version: int = (await connection.execute(select(mapping_version.c.version))).scalar_one()
    return version


class MappingRepository:
    """Loads and replaces mappings."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def subjects(self, subjects: Sequence[str]) -> dict[str, tuple[SubjectMapping, ...]]:
        """The mappings of some subjects."""
        async with transaction(self._engine) as connection:
            return await read_subjects(connection, subjects)

    async def meters(self, meters: Sequence[str]) -> dict[str, tuple[MeterMapping, ...]]:
        """The mappings of some meters."""
        async with transaction(self._engine) as connection:
            return await read_meters(connection, meters)

    async def everything(self) -> Mappings:
        """All mappings."""
        async with transaction(self._engine) as connection:
            return Mappings(
                await read_meters(connection, None), await read_subjects(connection, None)
            )

    async def preview(self, wanted: Mappings, *, now: datetime) -> AppliedMappings:
        """What `replace` would find; nothing is changed. Raises InvalidMapping as that does.

        What would be refused without force is among the moves.
        """
        async with transaction(self._engine) as connection:
            seen = await what_was_seen(connection, wanted)
            applied = _checked(await _named_in(connection, wanted), wanted, seen)
            changed = _changed(applied.before, wanted)
            remapping = await remap(connection, applied.before, changed, now=now)
            return replace(applied, moves=remapping.moves)

    async def replace(
        self, wanted: Mappings, *, now: datetime, force: bool = False, only_new: bool = False
    ) -> AppliedMappings:
        """Make the mappings of what `wanted` names equal to it.

        One transaction: replace, raise the version, release parked windows, have those moved that
        have another place now, notify replicas. `force`: also where what Stripe holds cannot come
        down. `only_new`: names that are mapped already are left out.
        Raises InvalidMapping where a meter does not fit its price, and MovesBilledUsage; nothing
        is changed then.
        """
        async with transaction(self._engine) as connection:
            # Before the lock: this reads all snapshots, and the lock stops all booking.
            seen = await what_was_seen(connection, wanted)
        async with transaction(self._engine) as connection:
            await connection.execute(
                text("select pg_advisory_xact_lock(:key)"), {"key": MAPPING_LOCK}
            )
            stands = await _named_in(connection, wanted)
            left_out = stands if only_new else Mappings({}, {})
            before, wanted = _without(stands, left_out), _without(wanted, left_out)
            applied = replace(_checked(before, wanted, seen), left_out=left_out)
            changed = _changed(before, wanted)
            if not (changed.meters or changed.subjects):
                return applied
            remapping = await remap(connection, before, changed, now=now)
            remapping.check(force=force)
            await remapping.mark(connection)
            await write_meters(connection, changed.meters, now)
            await write_subjects(connection, changed.subjects, now)
            await ask(connection, "meter", changed.meters)
            await ask(connection, "subject", changed.subjects)
            await _notify(connection, list(changed.meters), list(changed.subjects))
            return replace(applied, moves=remapping.moves)


def _checked(before: Mappings, wanted: Mappings, seen: Seen) -> AppliedMappings:
    found = fit(before, wanted, seen)
    if found.faults:
        raise InvalidMapping(faults=found.faults[:MAX_FAULTS])
    return AppliedMappings(before, found.notes)


def _changed(before: Mappings, wanted: Mappings) -> Mappings:
    """What of `wanted` does not stand already."""
    return Mappings(
        {name: held for name, held in wanted.meters.items() if before.meters.get(name) != held},
        {name: held for name, held in wanted.subjects.items() if before.subjects.get(name) != held},
    )


def _without(mappings: Mappings, others: Mappings) -> Mappings:
    """Those of `mappings` whose names are not among `others`."""
    return Mappings(
        {name: held for name, held in mappings.meters.items() if name not in others.meters},
        {name: held for name, held in mappings.subjects.items() if name not in others.subjects},
    )


async def _named_in(connection: AsyncConnection, wanted: Mappings) -> Mappings:
    """The present mappings of what `wanted` names."""
    return Mappings(
        await read_meters(connection, list(wanted.meters)),
        await read_subjects(connection, list(wanted.subjects)),
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
