"""When billing periods begin and end. Pure arithmetic in UTC; every time is Unix seconds."""

from calendar import monthrange
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

_DAY = 86_400
_FIXED_SECONDS = {"day": _DAY, "week": 7 * _DAY}
_MONTHS = {"month": 1, "year": 12}


class Interval(StrEnum):
    """The unit of a price's billing period."""

    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    YEAR = "year"


@dataclass(frozen=True, slots=True)
class Cycle:
    """The endless row of period boundaries through `anchor`, `count` intervals apart."""

    anchor: int
    interval: Interval
    count: int = 1

    def boundary(self, number: int) -> int:
        """The boundary `number` steps from the anchor (0 is the anchor itself).

        Months are counted from the anchor and never from the boundary before, so an anchor on
        the 31st comes back to the 31st after a shorter month.
        """
        seconds = _FIXED_SECONDS.get(self.interval)
        if seconds is not None:
            return self.anchor + number * self.count * seconds
        return _add_months(self.anchor, number * self.count * _MONTHS[self.interval])

    def next_boundary_after(self, at: int) -> int:
        """The first boundary that is later than `at`."""
        number = self._estimate(at)
        while self.boundary(number) > at:
            number -= 1
        while self.boundary(number) <= at:
            number += 1
        return self.boundary(number)

    def first_end(self, start: int) -> int:
        """When a first period that begins at `start` ends.

        An anchor still ahead (a trial's end, a chosen billing day) ends it, however far it is.
        """
        return self.anchor if self.anchor > start else self.next_boundary_after(start)

    def _estimate(self, at: int) -> int:
        seconds = _FIXED_SECONDS.get(self.interval)
        if seconds is not None:
            return (at - self.anchor) // (self.count * seconds)
        anchor, moment = _utc(self.anchor), _utc(at)
        months = 12 * (moment.year - anchor.year) + moment.month - anchor.month
        return months // (self.count * _MONTHS[self.interval])


def _utc(at: int) -> datetime:
    return datetime.fromtimestamp(at, UTC)


def _add_months(at: int, months: int) -> int:
    moment = _utc(at)
    years, month = divmod(moment.month - 1 + months, 12)
    year, month = moment.year + years, month + 1
    day = min(moment.day, monthrange(year, month)[1])
    return int(moment.replace(year=year, month=month, day=day).timestamp())
