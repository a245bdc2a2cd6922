"""Remapping: a change of the mappings -> the usage that it moves, refused, or marked to be moved.

Within the transaction that applies the change. The booking does the rest: it takes marked windows
off their records, waits until these have come down at Stripe, and books the windows anew.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction

from sqlalchemy.ext.asyncio import AsyncConnection

from app.errors import Fault, InvalidMapping, MovesBilledUsage
from app.mapping.file import MAX_FAULTS, Mappings
from app.mapping.models import SubscriptionSnapshot
from app.mapping.moving import (
    OBSTACLES,
    Move,
    Moves,
    PlaceOfUsage,
    changed_spans,
    decide,
    prices_changed,
)
from app.mapping.rows import read_meters
from app.mapping.snapshots import stored
from app.mapping.standing import Changed, mark_moving, standing_usage
from app.mapping.units import exact_text

# They are marked in one transaction, which stops all booking, and each is sent twice.
MOST_WINDOWS = 100_000


@dataclass(frozen=True, slots=True)
class Remapping:
    """What a change moves, and what names the windows."""

    moves: Moves
    changed: Changed
    places: Collection[PlaceOfUsage]

    def check(self, *, force: bool) -> None:
        """Raises MovesBilledUsage, which `force` allows, and InvalidMapping for too much."""
        if self.moves.windows > MOST_WINDOWS:
            raise InvalidMapping(
                f"This moves {self.moves.windows} windows that are booked; at most {MOST_WINDOWS} "
                "are moved at once: apply it for fewer subjects at a time, or from a later time on"
            )
        obstructed = self.moves.obstructed
        if obstructed and not force:
            raise _refusal(obstructed)

    async def mark(self, connection: AsyncConnection) -> int:
        """Have the windows moved. To be called under the mapping lock, held alone."""
        return await mark_moving(connection, self.changed, self.places)


async def remap(
    connection: AsyncConnection, before: Mappings, wanted: Mappings, *, now: datetime
) -> Remapping:
    """What the mappings that are wanted move; `before` are those of the same names that stand."""
    # Usage stands only where there was a mapping before.
    spans = {
        subject: changes
        for subject, mappings in wanted.subjects.items()
        if subject in before.subjects
        and (changes := changed_spans(before.subjects[subject], mappings))
    }
    meters = [
        meter
        for meter, split in wanted.meters.items()
        if meter in before.meters and prices_changed(before.meters[meter], split)
    ]
    given = {s: m for s, m in wanted.subjects.items() if s in spans or meters}
    changed = Changed(spans, meters, given)
    found = await standing_usage(connection, changed, now=now)
    stood = await read_meters(connection, sorted({usage.meter for usage in found}))
    snapshots: dict[str, SubscriptionSnapshot] = {}
    if found:
        snapshots = await stored(connection, sorted({usage.subscription for usage in found}))
    moves, places = decide(
        found, before=stood, after={**stood, **wanted.meters}, snapshots=snapshots
    )
    return Remapping(moves, changed, places)


def _refusal(obstructed: Sequence[Move]) -> MovesBilledUsage:
    windows = sum(move.windows for move in obstructed)
    amount = sum((move.amount for move in obstructed), Fraction(0))
    return MovesBilledUsage(
        f"This moves {_usage(windows, amount)} that stand where they cannot come down at Stripe "
        "any more. By force (--force, force=true) they are billed at their new place: what was "
        "carried to the open period is taken back, and what a closed invoice holds is held, to be "
        "credited by hand. To leave it where it is, give a subject a second span that begins "
        "later; a meter's mapping has no time",
        faults=tuple(
            Fault(
                f"{move.subscription_item} of {move.subscription}, from "
                f"{move.period_start.isoformat()}",
                f"{_usage(move.windows, move.amount)} to {move.to_subscription}, {move.to_price}: "
                f"{OBSTACLES[move.obstacle]}",
            )
            for move in obstructed[:MAX_FAULTS]
            if move.obstacle is not None
        ),
    )


def _usage(windows: int, amount: Fraction) -> str:
    return f"{windows} window{'' if windows == 1 else 's'} with {exact_text(amount)} units"
