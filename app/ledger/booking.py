"""Booking: changes of exact amounts -> whole quantities of an item's usage records. Pure.

The rounding is done on the running total of the item's period, so that fractions are carried and
not lost: a record that changes gets what brings the sum of all records to the rounded total. So

    sum of the wanted quantities = round(sum of the exact amounts)

holds after every change, whatever the order, and a change costs the same in a period of a thousand
records as in one of ten. Three records of 0.4 units become 0, 1 and 0: 1.2 units, billed as 1.

A record that would fall below zero (a correction downward where its fraction was billed on another
record, or a negative value) stands at zero and the rest is taken from the period's other records,
newest first.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

from app.ledger.quantity import round_total
from app.mapping.models import Rounding


@dataclass(frozen=True, slots=True)
class Totals:
    """An item's period: the exact sum of its amounts and the sum of its wanted quantities."""

    exact: Fraction = Fraction(0)
    rounded: int = 0


class Change(NamedTuple):
    """So much more (or less) belongs to the record at `timestamp`."""

    timestamp: int
    amount: Fraction


@dataclass(frozen=True, slots=True)
class Booked:
    """The totals and wanted quantities after some changes.

    `missing` is what could not be taken from the records given: the caller must give all of them.
    """

    totals: Totals
    wanted: dict[int, int]
    missing: int


def book(
    totals: Totals, wanted: Mapping[int, int], changes: Iterable[Change], rounding: Rounding
) -> Booked:
    """Apply changes to the records in `wanted` (timestamp -> quantity)."""
    exact, rounded = totals.exact, totals.rounded
    after = dict(wanted)
    missing = 0
    for change in changes:
        exact += change.amount
        total = round_total(exact, rounding)
        after[change.timestamp] = after.get(change.timestamp, 0) + total - rounded
        rounded = total
        if after[change.timestamp] < 0:
            missing += _take(after, change.timestamp)
    return Booked(Totals(exact, rounded), after, missing)


def _take(wanted: dict[int, int], timestamp: int) -> int:
    """Cover what the record lacks to zero from the others, newest first. Returns what is left."""
    lack = -wanted[timestamp]
    wanted[timestamp] = 0
    for other in sorted(wanted, reverse=True):
        taken = min(lack, wanted[other])
        wanted[other] -= taken
        lack -= taken
        if lack == 0:
            break
    return lack
