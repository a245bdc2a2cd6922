"""What the subjects use: reports for webhooks, by the hour and as the clock goes on."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal

from tests.chaos.account import Window
from tests.chaos.world import (
    DAY,
    HOUR,
    LIVE,
    LIVE_BACKLOG,
    LIVE_WINDOW,
    MONTHLY_METERS,
    MonthlyMeter,
    World,
)

LONGEST_REPORT = 48
MOST_CORRECTED = 12


@dataclass(frozen=True, slots=True)
class Report:
    """What a webhook tells: values of windows of one meter and subject."""

    meter: str
    aggregation: str
    subject: str
    values: dict[Window, Decimal]


def monthly_reports(world: World, dice: random.Random) -> list[Report]:
    """A day of a meter each, in any order; and what nobody pays for."""
    last = world.now // HOUR * HOUR
    told = [
        _day(meter, subject, last - day * DAY, dice)
        for subject in world.subjects
        for day in range(1, world.days + 1)
        for meter in MONTHLY_METERS
    ]
    told += [_day(MONTHLY_METERS[2], stranger, last - DAY, dice) for stranger in world.strangers]
    dice.shuffle(told)
    return told


def before_the_subscription(world: World, dice: random.Random) -> Report:
    """Usage of a customer from before the subscription that pays."""
    subject = next(s for s in world.subjects if s in world.mappings.subjects)
    began = world.customers[0].began // HOUR * HOUR
    return _day(MONTHLY_METERS[2], subject, began - 2 * DAY, dice)


def _day(meter: MonthlyMeter, subject: str, begin: int, dice: random.Random) -> Report:
    values = {
        Window(meter.slug, subject, groups, begin + hour * HOUR, begin + (hour + 1) * HOUR): _value(
            dice, fractions=meter.fractions
        )
        for hour in range(24)
        for groups in meter.groups
    }
    return Report(meter.slug, meter.aggregation, subject, values)


def _value(dice: random.Random, *, fractions: bool) -> Decimal:
    # Sums of float64 have such digits: 17 of them, and now and then an exponent.
    return Decimal(repr(dice.random() * 10_000)) if fractions else Decimal(dice.randint(0, 5_000))


class Corrections:
    """Other values for windows that were told: of daily periods only higher ones."""

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice
        self._highest: dict[Window, Decimal] = {}

    def of(self, report: Report) -> Report:
        """A report on a few windows of another one, to be told after it."""
        few = self._dice.sample(sorted(report.values), min(MOST_CORRECTED, len(report.values)))
        fractions = any(value % 1 for value in report.values.values())
        values = {window: _value(self._dice, fractions=fractions) for window in few}
        if report.meter == LIVE:
            for window in few:
                values[window] += self._highest.get(window, report.values[window])
            self._highest |= values
        return Report(report.meter, report.aggregation, report.subject, values)


class LiveUsage:
    """Subjects of daily periods: what they used since they were last told, as the clock goes on."""

    def __init__(self, world: World, dice: random.Random) -> None:
        begin = (world.now - LIVE_BACKLOG) // LIVE_WINDOW * LIVE_WINDOW
        self._told_until = dict.fromkeys(world.live, begin)
        self._dice = dice

    def reports(self, now: int) -> Iterator[Report]:
        """Windows that are over now and were not told yet."""
        for subject, begin in self._told_until.items():
            starts = range(begin, now // LIVE_WINDOW * LIVE_WINDOW, LIVE_WINDOW)
            for first in range(0, len(starts), LONGEST_REPORT):
                yield Report(
                    LIVE,
                    "SUM",
                    subject,
                    {
                        Window(LIVE, subject, (), start, start + LIVE_WINDOW): _value(
                            self._dice, fractions=False
                        )
                        for start in starts[first : first + LONGEST_REPORT]
                    },
                )
            if starts:
                self._told_until[subject] = starts[-1] + LIVE_WINDOW
