"""A meter split by group: each window is for one price, whatever its groups."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import InvalidMapping
from app.mapping.file import MappingFile, to_mappings
from app.mapping.models import MeterMapping
from app.mapping.splitting import Filter, Filters, describe_name, holds, matching
from tests.mapping.stripe_side import meter, price

REST = meter()


def only(**groups: str) -> MeterMapping:
    """A mapping for windows with these groups, by a price that tells them."""
    named = "_".join(["price", *(f"{name}.{value}" for name, value in sorted(groups.items()))])
    group_filter = tuple(sorted(groups.items()))
    return replace(meter(selector=price(named)), group_filter=group_filter)


GPT4, GPT3 = only(model="gpt-4"), only(model="gpt-3")
EU = only(model="gpt-5", region="eu")
SPLIT = [REST, GPT3, GPT4, EU]

# The groups of a window, and the mapping that it is for.
WINDOWS = [
    ({"model": "gpt-4"}, GPT4),
    ({"model": "gpt-4", "region": "eu"}, GPT4),
    ({"model": "gpt-3", "type": ""}, GPT3),
    ({"model": "gpt-5", "region": "eu"}, EU),
    ({"model": "gpt-5", "region": "us"}, REST),
    ({"model": "gpt-5"}, REST),
    ({"model": "GPT-4"}, REST),
    ({"model": ""}, REST),
    ({"Model": "gpt-4"}, REST),
    ({}, REST),
]


@pytest.mark.parametrize(("groups", "mapping"), WINDOWS)
def test_the_mapping_of_a_window(groups: dict[str, str], mapping: MeterMapping) -> None:
    assert matching(SPLIT, groups) is mapping
    assert matching(SPLIT[::-1], groups) is mapping
    without_rest = None if mapping is REST else mapping
    assert matching(SPLIT[1:], groups) is without_rest


def test_a_meter_without_mappings_has_none() -> None:
    assert matching([], {"model": "gpt-4"}) is None


def test_an_empty_value_is_one_that_a_window_can_have() -> None:
    """OpenMeter writes an empty value where the event had none."""
    empty = only(model="")
    assert matching([empty], {"model": ""}) is empty
    assert matching([empty], {}) is None


def disjoint(one: Filter, other: Filter) -> bool:
    """Whether no window can match both filters."""
    values = dict(one)
    return any(values.get(name, value) != value for name, value in other)


FILTERS: list[tuple[dict[str, str], dict[str, str], bool]] = [
    ({"model": "a"}, {"model": "b"}, True),
    ({"model": "a"}, {"model": "a"}, False),
    ({"model": "a"}, {"region": "eu"}, False),
    ({"model": "a"}, {"model": "a", "region": "eu"}, False),
    ({"model": "a", "region": "us"}, {"model": "a", "region": "eu"}, True),
    ({"model": "a", "region": "us"}, {"region": "eu", "type": "x"}, True),
    ({"model": "a"}, {"model": ""}, True),
    ({"model": "a"}, {}, False),
]


@pytest.mark.parametrize(("one", "other", "apart"), FILTERS)
def test_which_filters_no_window_can_match_both(
    one: dict[str, str], other: dict[str, str], apart: bool
) -> None:
    left, right = tuple(sorted(one.items())), tuple(sorted(other.items()))
    assert disjoint(left, right) is apart
    assert disjoint(right, left) is apart


NAMES = st.sampled_from(["model", "region", "type"])
VALUES = st.sampled_from(["", "a", "b", "c"])
GROUPS = st.dictionaries(NAMES, VALUES)


def as_filter(groups: dict[str, str]) -> Filter:
    return tuple(sorted(groups.items()))


@given(GROUPS, GROUPS, GROUPS)
def test_filters_are_apart_exactly_where_no_window_matches_both(
    one: dict[str, str], other: dict[str, str], window: dict[str, str]
) -> None:
    left, right = as_filter(one), as_filter(other)
    if disjoint(left, right):
        assert not (holds(left, window) and holds(right, window))
    else:
        both = one | other
        assert holds(left, both)
        assert holds(right, both)


@given(st.lists(GROUPS.filter(bool), max_size=8), st.data())
def test_a_clash_is_found_exactly_where_two_filters_are_not_apart(
    filters: list[dict[str, str]], data: st.DataObject
) -> None:
    """Looked for at any time, between any two additions."""
    held = Filters()
    so_far: list[Filter] = []
    for groups in filters:
        for asked in data.draw(st.lists(GROUPS.filter(bool), max_size=2)):
            mine = as_filter(asked)
            clashing = [n for n, other in enumerate(so_far) if not disjoint(mine, other)]
            clash = held.clash(mine)
            assert (clash in clashing) if clashing else clash is None
        held.add(len(so_far), as_filter(groups))
        so_far.append(as_filter(groups))


@given(st.lists(GROUPS, min_size=1, max_size=6), st.lists(GROUPS, min_size=1, max_size=10))
def test_a_file_that_is_taken_has_one_mapping_at_most_for_any_window(
    filters: list[dict[str, str]], windows: list[dict[str, str]]
) -> None:
    entries = [
        {"meter": "m", "price": f"price_{number}"} | ({"groups": groups} if groups else {})
        for number, groups in enumerate(filters)
    ]
    try:
        split = to_mappings(MappingFile.model_validate({"meters": entries})).meters["m"]
    except InvalidMapping:
        pairs = [(a, b) for n, a in enumerate(filters) for b in filters[n + 1 :]]
        assert any(
            a == b or (a and b and not disjoint(as_filter(a), as_filter(b))) for a, b in pairs
        )
        return
    assert len(split) == len(filters)
    for window in windows:
        held = [m for m in split if m.group_filter and holds(m.group_filter, window)]
        rest = [m for m in split if not m.group_filter]
        assert len(held) <= 1
        assert matching(split, window) == next(iter(held + rest), None)


@given(st.lists(GROUPS.filter(bool), min_size=2, max_size=4), st.integers(0, 3))
def test_the_mapping_of_a_filter_takes_its_own_windows(
    filters: list[dict[str, str]], chosen: int
) -> None:
    split: list[MeterMapping] = []
    for mapping in (only(**groups) for groups in filters):
        if all(disjoint(mapping.group_filter, other.group_filter) for other in split):
            split.append(mapping)
    mine = split[chosen % len(split)]
    assert matching([REST, *split], dict(mine.group_filter)) is mine


def test_a_mapping_is_named_by_its_meter_and_groups() -> None:
    assert [describe_name(mapping) for mapping in (REST, GPT4, EU)] == [
        "tokens",
        "tokens (model=gpt-4)",
        "tokens (model=gpt-5, region=eu)",
    ]
