"""Approval: a correction that takes much away waits for an operator. Pure.

A meter that was reset by accident, or an event store that lost a day, tells zeros for what is
billed already. What was booked stays; releasing the window approves this very revision.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

from app.ledger.quantity import amount
from app.ledger.windows import PendingWindow, SettledWindow
from app.mapping.aggregation import NEEDED
from app.mapping.models import Combination
from app.mapping.reasons import ParkReason
from app.mapping.resolution import WindowSource


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a divided window. `scale`: the one it was booked by; None: it stands nowhere."""

    value: Decimal
    scale: Fraction | None


def awaits_approval(
    window: PendingWindow, *, above: Decimal | None, parts: Sequence[Part] = ()
) -> SettledWindow | None:
    """The window as it is parked, or None where its revision may be booked.

    `above`: units (value x scale) that a revision may take away unasked; None: any number. What was
    booked provisionally is no delivery's word: it goes down to what is so without being asked. Of a
    divided window (`parts`, in time) the whole is judged: units that only go from one part to the
    other are taken from nobody.
    """
    if above is None or window.facts.source in (WindowSource.FLUSH, WindowSource.PART):
        return None
    before, scale = _standing(window, parts)
    if scale is None:
        return None
    after = amount(window.value, scale)
    taken = before - after
    if taken <= Fraction(above) or window.approved_revision == window.revision:
        return None
    return SettledWindow(
        window.id,
        "parked",
        ParkReason.NEEDS_APPROVAL,
        f"from {_units(before)} to {_units(after)} units: {_units(taken)} less, and more "
        f"than {_units(Fraction(above))} need approval; what was booked before stays",
        usage_record_id=window.usage_record_id,
        amount=window.amount,
        scale=window.scale,
        moving_from=window.moving_from,
    )


def _standing(window: PendingWindow, parts: Sequence[Part]) -> tuple[Fraction, Fraction | None]:
    """What of a window is booked, in units, and by which scale; None: nothing of it is."""
    if window.usage_record_id is not None:
        return window.amount, window.scale
    scales = [part.scale for part in parts if part.scale is not None]
    if not scales:
        return Fraction(0), None
    values = [part.value for part in parts]
    match NEEDED.get(window.facts.aggregation):
        case Combination.SUM:
            value = sum(values, Decimal(0))
        case Combination.MAX:
            value = max(values)
        case _:
            value = values[-1]
    # Two prices may have two scales: by the greater one, so that nothing slips through.
    return amount(value, max(scales)), max(scales)


def _units(exact: Fraction) -> str:
    """A decimal where it is short and exact, else the fraction."""
    written = Decimal(exact.numerator) / Decimal(exact.denominator)
    return f"{written.normalize():f}" if Fraction(written) == exact else str(exact)
