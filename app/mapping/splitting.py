"""A meter split by group: which of its mappings is for a window. Pure.

Two filters are disjoint where some group has one value in the one and another in the other: then
no window has both, and each window is for one price.
"""

from collections.abc import Mapping, Sequence

from app.mapping.models import MeterMapping

Filter = tuple[tuple[str, str], ...]  # sorted
_Names = tuple[str, ...]


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
    for name, value in group_filter:  # noqa: SIM110 - all() costs several times as much
        if group_by.get(name) != value:
            return False
    return True


class Filters:
    """The filters of one meter so far, and which of them one more would not be disjoint from.

    Filters of the same groups are looked up by their values, not compared one by one: that took
    10 s for a file of 10,000 entries.
    """

    def __init__(self) -> None:
        self._held: dict[_Names, list[tuple[int, Filter]]] = {}
        self._found: dict[tuple[_Names, _Names], dict[Filter, int]] = {}

    def add(self, position: int, group_filter: Filter) -> None:
        """Hold the filter of the entry at a position."""
        mine = tuple(name for name, _ in group_filter)
        self._held.setdefault(mine, []).append((position, group_filter))
        for (names, shared), found in self._found.items():
            if names == mine:
                found.setdefault(_part(group_filter, shared), position)

    def clash(self, group_filter: Filter) -> int | None:
        """The position of a filter that a window could match beside this one."""
        mine = {name for name, _ in group_filter}
        for names, held in self._held.items():
            shared = tuple(name for name in names if name in mine)
            found = self._found.get((names, shared))
            if found is None:
                found = self._found[names, shared] = {}
                for at, other in held:
                    found.setdefault(_part(other, shared), at)
            # Where they share no group, the empty part of this one is that of all.
            position = found.get(_part(group_filter, shared))
            if position is not None:
                return position
        return None


def _part(group_filter: Filter, names: _Names) -> Filter:
    return tuple(pair for pair in group_filter if pair[0] in names)


def describe_filter(group_filter: Filter) -> str:
    """The filter in words, for operators; empty where there is none."""
    return ", ".join(f"{name}={value}" for name, value in group_filter)


def describe_name(mapping: MeterMapping) -> str:
    """The meter, and the groups of it that the mapping is for."""
    groups = describe_filter(mapping.group_filter)
    return f"{mapping.meter} ({groups})" if groups else mapping.meter
