"""Columns: how the rows of a batch are given to one statement. Pure.

Each column is an array, written as PostgreSQL reads one. To encode it the driver asked of every
element whether it is an array in its turn, which took a fifth of all the time that booking takes.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any


def column(name: str, values: Sequence[object]) -> dict[str, Any]:
    """A column as a statement takes it that says `coalesce(t.name, :every_name)`.

    Where all rows have the same it is not given once for each: `unnest` makes nulls of what is
    missing. Some other column must say how many rows there are.
    """
    first = values[0] if values else None
    if all(value == first for value in values):
        return {name: [], f"every_{name}": first}
    return {name: list(values), f"every_{name}": None}


def texts(values: Sequence[str]) -> str:
    """An array of texts."""
    if not values:
        return "{}"
    joined = '","'.join(values)
    if "\\" in joined or joined.count('"') != 2 * (len(values) - 1):
        joined = '","'.join(value.replace("\\", "\\\\").replace('"', '\\"') for value in values)
    return f'{{"{joined}"}}'


def numbers(values: Iterable[int | Decimal | None]) -> str:
    """An array of exact numbers."""
    return _array("null" if value is None else str(value) for value in values)


def moments(values: Iterable[datetime]) -> str:
    """An array of moments. The same ones come again and again: where windows begin and end."""
    return _array(_written(value) for value in values)


def _array(values: Iterable[str]) -> str:
    return "{" + ",".join(list(values)) + "}"


@lru_cache(maxsize=8192)
def _written(moment: datetime) -> str:
    return moment.isoformat()
