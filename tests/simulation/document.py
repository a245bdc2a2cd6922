"""docs/periods.md, written from what a simulated year came to."""

import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.simulation.driver import Run
from tests.simulation.measuring import Account, Line, by_kind, line
from tests.simulation.plans import Sync
from tests.simulation.world import Course

PAGE = Path(__file__).parents[2] / "docs" / "periods.md"
RECIPE, ALONE, WITH_API = "published recipe", "meterbridge", "meterbridge + OpenMeter API"


@dataclass(frozen=True, slots=True)
class Measured:
    """One way to report the course, under so many seconds of grace."""

    way: str
    grace: int
    run: Run
    accounts: list[Account]
    processor_seconds: float
    seconds: float


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 0.05:
        return "0 s"
    if seconds < 100:
        return f"{seconds:.1f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def page(course: Course, measured: Sequence[Measured], *, days: int, seed: int) -> str:
    """The whole page."""
    parts = [
        _INTRODUCTION.format(
            days=days,
            customers=len(course.plans),
            hourly=sum(plan.sync is Sync.HOURLY for plan in course.plans),
            daily=sum(plan.sync is Sync.DAILY for plan in course.plans),
            events=sum(map(len, course.usage.values())),
            reports=len(course.reports),
        ),
        _table(
            ("Stripe's grace", "way", "sync", "ends", "wrong period, mean", "worst", "units"),
            [row for one in measured for row in _summary(one, announced=True)],
        ),
        _UNANNOUNCED,
        _table(
            ("Stripe's grace", "way", "sync", "ends", "wrong period, mean", "worst", "units"),
            [row for one in measured for row in _summary(one, announced=False)],
        ),
        _NOTHING_LOST,
        _table(
            ("Stripe's grace", "way", "used", "billed", "parked or held", "lost", "billed twice"),
            [_balance(one) for one in measured],
        ),
        _BY_KIND.format(grace=measured[0].grace),
        _kinds([one for one in measured if one.grace == measured[0].grace]),
        _WHAT_IT_TAKES,
        _table(
            (
                "grace",
                "way",
                "webhooks",
                "POSTs",
                "refused",
                "reads",
                "carried",
                "processor",
                "time",
            ),
            [_effort(one) for one in measured],
        ),
        _ASSUMED.format(
            posts=measured[-1].run.posts,
            minutes=measured[-1].run.posts // 25 // 60,
            machine=f"{os.cpu_count()} processors, {platform.machine()}, Python "
            f"{platform.python_version()}",
            seed=seed,
        ),
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _summary(one: Measured, *, announced: bool) -> list[list[str]]:
    found = []
    for sync in Sync:
        accounts = [account for account in one.accounts if account.plan.sync is sync]
        sums = line(sync, accounts, announced=announced)
        if sums.boundaries:
            found.append(
                [
                    f"{one.grace} s",
                    one.way,
                    sync.value,
                    str(sums.boundaries),
                    duration(sums.mean_seconds),
                    duration(sums.worst_seconds),
                    f"{sums.wrong_units:,}",
                ]
            )
    return found


def _balance(one: Measured) -> list[str]:
    sums = line("all", one.accounts)
    shown = sums.unbilled if one.way != RECIPE else 0
    lost = sums.lost + (sums.unbilled if one.way == RECIPE else 0)
    used = sum(account.used for account in one.accounts)
    billed = sum(account.billed for account in one.accounts)
    return [
        f"{one.grace} s",
        one.way,
        *(f"{units:,}" for units in (used, billed, shown, lost, sums.doubled)),
    ]


def _kinds(measured: Sequence[Measured]) -> str:
    by_way = {one.way: by_kind(one.accounts) for one in measured}
    rows = []
    for place, (kind, sync, _) in enumerate(next(iter(by_way.values()))):
        for announced in (True, False):
            cells: list[Line] = [
                line("", accounts[place][2], announced=announced) for accounts in by_way.values()
            ]
            if cells[0].boundaries:
                end = kind.value if announced else f"{kind.value}: the unannounced end"
                rows.append(
                    [end, sync.value, str(cells[0].boundaries)]
                    + [duration(cell.mean_seconds) for cell in cells]
                )
    return _table(("periods", "sync", "ends", *by_way), rows)


def _effort(one: Measured) -> list[str]:
    run = one.run
    whole: Callable[[int], str] = "{:,}".format
    return [
        f"{one.grace} s",
        one.way,
        *map(whole, (run.deliveries, run.posts, run.refusals, run.reads, run.carried)),
        f"{one.processor_seconds:.0f} s",
        f"{one.seconds:.0f} s",
    ]


_INTRODUCTION = """
# In which period usage is billed: a simulated year

`make simulate` wrote this page. It lets {days} days pass over {customers} subscriptions
({hourly} with hourly syncs, {daily} with daily ones): {events:,} events, {reports:,} webhooks.
Their billing periods end on the 31st, in mid-day at odd seconds, on leap day, with a trial, by an
upgrade in mid-period (to another item, to another subscription), by a threshold that resets the
anchor, by `cancel_at` and `cancel_at_period_end`; days are those of UTC, Europe/Berlin or
America/New_York, so two of them have 23 and 25 hours. Of a hundred events one is known to OpenMeter
hours late, and its window is reported again. Webhooks arrive 1 to 5 minutes after an hour, 5 to 30
after a day, and of a hundred four come hours later than that.

The same events are reported to Stripe in three ways:

- **published recipe**: `set` with timestamp = `windowEnd`, as OpenMeter's guide has it. What is
  refused is lost. (Kinder than printed: it always finds the right item.)
- **meterbridge**: without OpenMeter's API. A window that straddles a period's end is billed whole,
  in the period it ends in; what is late is carried forward.
- **meterbridge + OpenMeter API**: such a window is billed in two parts, and what no webhook has
  told yet is asked for shortly before a period ends.

## Ends that are known before

How much usage, in seconds of it, is billed in another period than the one it belongs to, for each
end of a period:
"""

_UNANNOUNCED = """
Late events are not in these figures, in none of the ways: those that OpenMeter itself learns of
only after the period's end and Stripe's grace, and those that it learns of after it has reported
their window, and corrects after the period's end. (A flush asks for what no window has told yet; it
does not ask again for what is told.) meterbridge carries both forward.

Nor does a flush ask for a hole: it asks for what lies after the newest window that was told. An
hour whose webhook comes hours late, and after its successor's, shortly before a period ends, is
carried forward like other late usage. The worst figure of the hourly syncs is one such hour.

## Ends that nobody announces

A threshold that is reached, a plan change that begins a new period, an old subscription canceled on
the spot. Stripe closes the period before anybody is told of the usage: up to one sync's window is
billed in the next period (or, where there is no next period, is parked). Flush before such a change
(wait for a sync, or let the change take effect at a period's end) if that matters.
"""

_NOTHING_LOST = """
## Nothing lost, nothing twice

Every unit that was used is billed once, or shown as parked or held with its reason. What is parked
or held is of subscriptions that ended, or corrects usage of an item that a plan change took away.
"""

_BY_KIND = """
## By what is special about the periods

Mean per end, with {grace} seconds of grace:
"""

_WHAT_IT_TAKES = """
## What it takes

"Carried" are units that went to a later period, or came back. CPU is the processor time of Python
(PostgreSQL has its own), time is what a clock on the wall showed; both say as much about what else
the machine had to do as about the simulation.
"""

_ASSUMED = """
## How it is done, and what is assumed

- Real: PostgreSQL, the booker, the carrier, the asking and the flushing of OpenMeter, the claiming
  of due records, what follows each of Stripe's answers, and the sandbox's rules. The clock is moved
  from one thing that happens to the next.
- Simplified: records are claimed in big batches and posted one after the other by a thin sender
  that uses the dispatcher's own claim, decision and writing down, but neither its pace nor its
  leases ({posts:,} POSTs at Stripe's 25 a second alone are {minutes} minutes), and the sandbox is
  called without HTTP. Deliveries that come hours away from the end of any period of their
  subscription are gathered for up to a day: nothing hangs on their minute. Customers are
  divided among four processes, with a database each. `DISPATCH_LINGER` is 0, and
  `SNAPSHOT_MAX_AGE` a week in place of a day, so that what is changed in mid-period is noticed
  later.
- Stripe's grace is not published ("a few minutes", not to be relied on). It is assumed to be 300
  seconds; the worst case, none at all, is measured beside it.
- OpenMeter knows an event 1 to 4 seconds after it happened. Values are whole numbers, or quarters
  of them, so that all sums are exact and a difference of one unit would be seen.
- Around a period's end there is an event every second, so that a second more or less is seen.
- Not covered: outages (of OpenMeter, Stripe, the database, meterbridge), prices that take the
  maximum or the newest value, split meters, yearly periods, pauses. Other tests look at these.

Measured with seed {seed} on {machine}. `make simulate` repeats it (`ARGS="--seed 2"` for another
year); `tests/simulation` runs three months of it with every build.
"""
