"""A course in parts that know nothing of one another: customers share no item and no subscription.

A year of fifty is one process's work of minutes; its parts run side by side, each with a bridge, a
database and a clock of its own.
"""

from collections.abc import Sequence
from dataclasses import replace

from tests.simulation.driver import Run
from tests.simulation.world import Course


def shards(course: Course, number: int) -> list[Course]:
    """The course in so many parts, every customer in one of them.

    Customers whose periods end together stay together: each end is ten steps, whoever shares it.
    """
    plans = sorted(course.plans, key=lambda plan: course.boundaries[plan.number])
    size = -(-len(plans) // number)
    return [
        _part(course, {plan.number for plan in plans[first : first + size]})
        for first in range(0, len(plans), size)
    ]


def _part(course: Course, numbers: set[int]) -> Course:
    return replace(
        course,
        plans=[plan for plan in course.plans if plan.number in numbers],
        boundaries={n: found for n, found in course.boundaries.items() if n in numbers},
        usage={n: found for n, found in course.usage.items() if n in numbers},
        changes=[change for change in course.changes if change[1] in numbers],
        upgrades=[upgrade for upgrade in course.upgrades if upgrade.plan.number in numbers],
        reports=[report for report in course.reports if report.number in numbers],
    )


def merged(runs: Sequence[Run]) -> Run:
    """What became of the whole course."""
    return Run(
        {number: found for run in runs for number, found in run.periods.items()},
        {number: found for run in runs for number, found in run.unbilled.items()},
        sum(run.carried for run in runs),
        sum(run.windows for run in runs),
        sum(run.deliveries for run in runs),
        sum(run.posts for run in runs),
        sum(run.reads for run in runs),
        sum(run.refusals for run in runs),
        sum(run.steps for run in runs),
        sum(run.python_seconds for run in runs),
    )
