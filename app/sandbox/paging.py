"""Cursor paging, the same for every list."""

from collections.abc import Sequence
from typing import Protocol, TypeVar

from app.sandbox import parameters
from app.sandbox.errors import invalid_value, no_such
from app.sandbox.form import Parameters

DEFAULT_LIMIT = 10
PAGING = frozenset({"limit", "starting_after", "ending_before", "expand"})


class _HasId(Protocol):
    @property
    def id(self) -> str: ...


T = TypeVar("T", bound=_HasId)


def page(found: Sequence[T], asked: Parameters, noun: str) -> tuple[list[T], bool]:
    """The page that was asked for, and whether more follow in the direction of paging.

    Raises StripeError (400) for a bad limit, two cursors, or a cursor that is not in the list.
    """
    limit = parameters.integer(asked, "limit", least=1, greatest=100) or DEFAULT_LIMIT
    after = parameters.text(asked, "starting_after")
    before = parameters.text(asked, "ending_before")
    if after is not None and before is not None:
        raise invalid_value(
            "ending_before", "Received both `starting_after` and `ending_before` parameters."
        )
    if before is not None:
        end = _position(found, before, noun, "ending_before")
        return list(found[max(0, end - limit) : end]), end > limit
    start = 0 if after is None else _position(found, after, noun, "starting_after") + 1
    return list(found[start : start + limit]), len(found) > start + limit


def _position(found: Sequence[_HasId], identifier: str, noun: str, param: str) -> int:
    for index, entry in enumerate(found):
        if entry.id == identifier:
            return index
    raise no_such(noun, identifier, param, status=400)
