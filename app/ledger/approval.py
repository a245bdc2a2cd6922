"""Approval: a correction that takes much away waits for an operator. Pure.

A meter that was reset by accident, or an event store that lost a day, tells zeros for what is
billed already. What was booked stays; releasing the window approves this very revision.
"""

from decimal import Decimal
from fractions import Fraction

from app.ledger.quantity import amount
from app.ledger.windows import PendingWindow, SettledWindow
from app.mapping.reasons import ParkReason
from app.mapping.resolution import WindowSource


def awaits_approval(window: PendingWindow, *, above: Decimal | None) -> SettledWindow | None:
    """The window as it is parked, or None where its revision may be booked.

    `above`: units (value x scale) that a revision may take away unasked; None: any number. What was
    booked provisionally is no delivery's word: it goes down to what is so without being asked.
    """
    if above is None or window.usage_record_id is None or window.scale is None:
        return None
    if window.facts.source is WindowSource.FLUSH:
        return None
    after = amount(window.value, window.scale)
    taken = window.amount - after
    if taken <= Fraction(above) or window.approved_revision == window.revision:
        return None
    return SettledWindow(
        window.id,
        "parked",
        ParkReason.NEEDS_APPROVAL,
        f"from {_units(window.amount)} to {_units(after)} units: {_units(taken)} less, and more "
        f"than {_units(Fraction(above))} need approval; what was booked before stays",
        usage_record_id=window.usage_record_id,
        amount=window.amount,
        scale=window.scale,
        moving_from=window.moving_from,
    )


def _units(exact: Fraction) -> str:
    """A decimal where it is short and exact, else the fraction."""
    written = Decimal(exact.numerator) / Decimal(exact.denominator)
    return f"{written.normalize():f}" if Fraction(written) == exact else str(exact)
