"""Spans: where an item's periods end, and in which part of one a subject is paid for. Pure."""

from collections.abc import Iterable, Sequence
from datetime import datetime

from app.mapping.models import SubjectMapping
from app.mapping.reasons import ParkReason
from app.mapping.resolution import Parked, Period


def ended_by_the_next(periods: Iterable[Period], current: datetime) -> list[Period]:
    """An item's earlier periods, oldest first, none beyond the start of the next one.

    The anchor may be moved in a period: it ends before the end that was told when it began.
    `current`: the start of the period that is open now.
    """
    ordered = sorted(periods, key=lambda period: (period.start, period.end))
    starts = sorted({current, *(period.start for period in ordered)})
    return [
        Period(
            period.start, min([period.end, *(start for start in starts if start > period.start)])
        )
        for period in ordered
    ]


def paid_part(period: Period, paid: Sequence[SubjectMapping]) -> Period | Parked:
    """The part of a period in which a subscription pays for a subject, by these mappings.

    The first one is that of the window; those that adjoin it are one span with it.
    """
    start, end = paid[0].valid_from, paid[0].valid_to
    apart = list(paid[1:])
    while True:
        after = next((m for m in apart if end is not None and m.valid_from == end), None)
        before = next((m for m in apart if start is not None and m.valid_to == start), None)
        if after is not None:
            apart.remove(after)
            end = after.valid_to
        elif before is not None:
            apart.remove(before)
            start = before.valid_from
        else:
            break
    subscription = paid[0].subscription
    if any(_overlaps(mapping, period) for mapping in apart):
        return Parked(
            ParkReason.AGGREGATION_UNSUPPORTED,
            f"{subscription} pays for the subject twice in the period, with a gap between: "
            "that cannot be asked for as one",
        )
    first = period.start if start is None else max(period.start, start)
    last = period.end if end is None else min(period.end, end)
    if first >= last:
        return Parked(
            ParkReason.AGGREGATION_UNSUPPORTED,
            f"{subscription} pays for no part of the period that ends at {period.end.isoformat()}",
        )
    return Period(first, last)


def _overlaps(mapping: SubjectMapping, period: Period) -> bool:
    return (mapping.valid_from is None or mapping.valid_from < period.end) and (
        mapping.valid_to is None or mapping.valid_to > period.start
    )
