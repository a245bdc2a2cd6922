"""The schedule and the world: the same for the same seed, everything in them, within bounds."""

import random
from collections import Counter
from itertools import pairwise

import pytest

from tests.chaos.changes import FromThenOn, PriceOfAGroup
from tests.chaos.kinds import KINDS
from tests.chaos.messages import STEPS_A_SECOND, Post
from tests.chaos.schedule import draw_schedule
from tests.chaos.usage import Corrections, LiveUsage, monthly_reports
from tests.chaos.world import LIVE, STEP, draw_world

NOW = 1_790_000_000


def chance() -> random.Random:
    return random.Random(1)  # noqa: S311 - nothing secret is drawn


def test_a_seed_repeats_itself() -> None:
    first, again, other = (draw_schedule(seed=s, faults=60, seconds=10) for s in (1, 1, 2))
    assert first == again != other
    assert [entry.at for entry in first] == sorted(entry.at for entry in first)
    assert 0 <= first[0].at <= first[-1].at <= 10


@pytest.mark.parametrize("faults", [len(KINDS), 60, 500])
def test_every_kind_comes_and_none_more_often_than_it_may(faults: int) -> None:
    planned = draw_schedule(seed=3, faults=faults, seconds=1)
    counts = Counter(entry.kind for entry in planned)
    assert sum(counts.values()) == faults
    assert set(counts) == set(KINDS)
    assert all(k.most is None or counts[name] <= k.most for name, k in KINDS.items())


def test_of_some_kinds_there_are_as_many_as_asked() -> None:
    planned = draw_schedule(seed=3, faults=len(KINDS) + 4, seconds=1, least={"mapping_change": 4})
    counts = Counter(entry.kind for entry in planned)
    assert counts["mapping_change"] == 4
    assert (set(counts), counts.total()) == (set(KINDS), len(KINDS) + 4)


@pytest.mark.parametrize(("windows", "steps"), [(2_000, 2), (100_000, 14)])
def test_a_world_has_enough_windows_and_each_once(windows: int, steps: int) -> None:
    world = draw_world(seed=1, windows=windows, steps=steps, now=NOW)
    dice = chance()
    live = LiveUsage(world, dice)
    reports = monthly_reports(world, dice)
    for step in range(steps + 1):
        reports += live.reports(NOW + step * STEP)
    told = [window for report in reports for window in report.values]
    assert windows <= len(told) == len(set(told)) <= windows * 1.8
    assert all(len(report.values) <= 96 for report in reports)
    assert {type(change) for change in world.changes[:4]} == {type(c) for c in world.changes}
    paid = {span.subscription for spans in world.mappings.subjects.values() for span in spans}
    assert paid <= {customer.subscription for customer in world.customers}


def test_a_change_names_what_it_changes_and_keeps_the_rest() -> None:
    world = draw_world(seed=1, windows=2_000, steps=2, now=NOW)
    leaving = next(c for c in world.changes if isinstance(c, FromThenOn))
    spans = leaving.part(world.mappings, NOW).subjects[leaving.subject]
    assert spans[0].until == spans[1].since
    assert (spans[0].until or 0) > NOW
    split = next(c for c in world.changes if isinstance(c, PriceOfAGroup))
    entries = split.part(world.mappings, NOW).meters[split.meter]
    assert [bool(entry.groups) for entry in entries] == [True, False]
    document = split.part(world.mappings, NOW).document()
    assert [entry.get("groups") for entry in document["meters"]] == [dict([split.group]), None]


def test_corrections_of_daily_periods_only_go_up() -> None:
    world = draw_world(seed=1, windows=2_000, steps=2, now=NOW)
    dice = chance()
    report = next(iter(LiveUsage(world, dice).reports(NOW)))
    assert report.meter == LIVE
    corrections = Corrections(dice)
    stands = dict(report.values)
    for _ in range(20):
        correction = corrections.of(report)
        assert all(value >= stands[window] for window, value in correction.values.items())
        stands |= correction.values


def test_each_message_is_newer_than_the_one_before() -> None:
    world = draw_world(seed=1, windows=2_000, steps=2, now=NOW)
    reports = monthly_reports(world, chance())
    post = Post(chance())
    made = [post.message(report) for report in reports[:STEPS_A_SECOND]]
    assert all(one.order < other.order for one, other in pairwise(made))
    assert [entry.svix_id for entry in made] == sorted(entry.svix_id for entry in made)
