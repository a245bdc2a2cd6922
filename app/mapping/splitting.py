"""A meter split by group: which of its mappings is for a window. Pure.

Two filters are disjoint where some group has one value in the one and another in the other: then
no window has both, and each window is for one price.
"""

from collections.abc import Mapping, Sequence

from app.mapping.models import MeterMapping

Filter = tuple[tuple[str, str], ...]


def matching(meters: Sequence[MeterMapping], group_by: Mapping[str, str]) -> MeterMapping | None:
    """The mapping whose filter holds in a window's groups, else the one without a filter.

    `meters`: the mappings of the window's meter. None where there is none for such groups.
    """
    rest = None
    for meter in meters:
        if not meter.group_filter:
            rest = meter
        elif holds(meter.group_filter, group_by):
            return meter
    return rest


def holds(group_filter: Filter, group_by: Mapping[str, str]) -> bool:
    """Whether the groups have all of the filter's values. A group that is absent has none."""
    return all(group_by.get(name) == value for name, value in group_filter)


def disjoint(one: Filter, other: Filter) -> bool:
    """Whether no window can match both filters."""
    values = dict(one)
    return any(values.get(name, value) != value for name, value in other)


def describe_filter(group_filter: Filter) -> str:
    """The filter in words, for operators; empty where there is none."""
    return ", ".join(f"{name}={value}" for name, value in group_filter)


def describe_name(mapping: MeterMapping) -> str:
    """The meter, and the groups of it that the mapping is for."""
    groups = describe_filter(mapping.group_filter)
    return f"{mapping.meter} ({groups})" if groups else mapping.meter
