"""Three months of twelve subscriptions: everything is billed once, and in its period.

`python -m tests.simulation` does the same with a year of fifty.
"""

from collections.abc import Iterable

import pytest
from sqlalchemy.engine import URL

from tests.simulation.driver import Run, run_bridge, run_recipe
from tests.simulation.measuring import Account, accounts
from tests.simulation.plans import DAY, HOUR, MINUTE, QUARTER, Kind, Sync
from tests.simulation.world import Course, draw_course

DAYS = 91  # with the 29th of February and the ends of two winter times
GRACE = 300
GAP = {Sync.HOURLY: 30 * MINUTE, Sync.DAILY: 150 * MINUTE}
"""An event tells the usage of so many seconds at most, of which some may lie before its window."""
WINDOW = {Sync.HOURLY: HOUR, Sync.DAILY: 25 * HOUR}


@pytest.fixture(scope="module")
def course() -> Course:
    """Three months."""
    return draw_course(QUARTER, days=DAYS, seed=1)


@pytest.fixture(scope="module")
def shorter() -> Course:
    """Another course of a good month."""
    return draw_course(QUARTER, days=40, seed=2)


def check_nothing_is_lost(course: Course, run: Run, *, grace: int) -> list[Account]:
    """Every unit is on one bill, or shown; and what is shown is of subscriptions that ended."""
    found = accounts(course, run, grace=grace)
    assert {a.plan.kind: a.lost for a in found if a.lost} == {}
    assert sum(a.used for a in found) > 10**7
    shown = {a.plan.kind: a.unbilled for a in found if a.unbilled}
    assert set(shown) <= {Kind.CANCEL_AT, Kind.NEW_SUBSCRIPTION, Kind.NEW_ITEM}, run.unbilled
    return found


def crossed(of: Iterable[Account], *, announced: bool) -> dict[str, float]:
    """The ends of periods, and how many seconds of usage crossed each though it was known."""
    return {
        f"{account.plan.kind} {crossing.at}": crossing.avoidable_seconds
        for account in of
        for crossing in account.crossings
        if crossing.announced is announced
    }


async def test_with_the_api_usage_is_billed_in_its_period(fresh_url: URL, course: Course) -> None:
    run = await run_bridge(course, fresh_url, grace=GRACE, queries=True)
    found = check_nothing_is_lost(course, run, grace=GRACE)
    known_before = crossed(found, announced=True)
    assert len(known_before) > 25
    assert {end: seconds for end, seconds in known_before.items() if seconds > 1} == {}
    assert all(
        seconds < DAY + GAP[Sync.DAILY] for seconds in crossed(found, announced=False).values()
    )
    # Late events and unannounced ends are carried, and nothing else is.
    late = sum(crossing.units for account in found for crossing in account.crossings)
    assert 0 < run.carried < 2 * late


async def test_without_grace_seconds_are_left(fresh_url: URL, shorter: Course) -> None:
    """The last look before the end is 5 to 10 seconds before it; events take 1 to 4 more."""
    run = await run_bridge(shorter, fresh_url, grace=0, queries=True)
    found = check_nothing_is_lost(shorter, run, grace=0)
    known_before = crossed(found, announced=True)
    assert {end: seconds for end, seconds in known_before.items() if seconds > 15} == {}
    assert any(known_before.values())


async def test_without_the_api_one_window_may_slip(fresh_url: URL, shorter: Course) -> None:
    run = await run_bridge(shorter, fresh_url, grace=GRACE, queries=False)
    for account in check_nothing_is_lost(shorter, run, grace=GRACE):
        sync = account.plan.sync
        for crossing in account.crossings:
            assert crossing.avoidable_seconds < WINDOW[sync] + GAP[sync], crossing


def test_the_published_recipe_loses_usage(course: Course) -> None:
    """What the others are compared with does go wrong where it is known to."""
    by_kind = {
        account.plan.kind: account
        for account in accounts(course, run_recipe(course, grace=GRACE), grace=GRACE)
    }
    # The day that ends with the month is refused, every month; so is every `set` over a threshold.
    assert by_kind[Kind.LAST_DAY].unbilled > 2 * DAY * by_kind[Kind.LAST_DAY].plan.units_per_second
    assert by_kind[Kind.THRESHOLD].billed == 0
