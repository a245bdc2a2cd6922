"""Reading single parameters, each refusal as Stripe words it. All raise StripeError (400)."""

import re
from collections.abc import Iterable

from app.sandbox.errors import (
    empty_parameter,
    invalid_integer,
    invalid_value,
    missing_parameter,
    out_of_bounds,
    unknown_parameters,
)
from app.sandbox.form import Parameters, Value

# ASCII digits only: `\d` would take Arabic ones, and `int()` underscores and blanks.
_INTEGER = re.compile(r"[+-]?[0-9]+", re.ASCII)
_GREATEST = 2**63 - 1


def only(parameters: Parameters, allowed: frozenset[str]) -> None:
    """Refuse parameters that the endpoint does not have."""
    unknown = [name for name in parameters if name not in allowed]
    if unknown:
        raise unknown_parameters(unknown)


def text(parameters: Parameters, name: str) -> str | None:
    """A string; None when it is not there."""
    value = parameters.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise invalid_value(name, f"Invalid string: {name} is an object or a list")
    if not value:
        raise empty_parameter(name)
    return value


def required_text(parameters: Parameters, name: str) -> str:
    """A string that must be there."""
    value = text(parameters, name)
    if value is None:
        raise missing_parameter(name)
    return value


def integer(
    parameters: Parameters, name: str, *, least: int = 0, greatest: int = _GREATEST
) -> int | None:
    """A whole number written in digits; `10.0` and `1e3` are none. None when not there."""
    value = text(parameters, name)
    if value is None:
        return None
    # No valid number is longer, and int() refuses strings of thousands of digits its own way.
    if not _INTEGER.fullmatch(value) or len(value) > 20:
        raise invalid_integer(name, value)
    number = int(value)
    if abs(number) > _GREATEST:
        raise invalid_integer(name, value)
    if number < least:
        raise out_of_bounds(name, number, least, least=True)
    if number > greatest:
        raise out_of_bounds(name, number, greatest, least=False)
    return number


def required_integer(parameters: Parameters, name: str, *, least: int = 0) -> int:
    """A whole number that must be there."""
    value = integer(parameters, name, least=least)
    if value is None:
        raise missing_parameter(name)
    return value


def boolean(parameters: Parameters, name: str) -> bool | None:
    """`true` or `false`, as the official clients write them in any case of letters."""
    value = text(parameters, name)
    if value is None:
        return None
    if value.lower() not in {"true", "false"}:
        raise invalid_value(name, f"Invalid boolean: {value}")
    return value.lower() == "true"


def choice(parameters: Parameters, name: str, allowed: Iterable[str]) -> str | None:
    """One of a few words."""
    value = text(parameters, name)
    words = [str(word) for word in allowed]
    if value is not None and value not in words:
        listed = f"{', '.join(words[:-1])}, or {words[-1]}"
        raise invalid_value(name, f"Invalid {name}: must be one of {listed}")
    return value


def mapping(parameters: Parameters, name: str) -> dict[str, Value]:
    """A nested object; empty when it is not there."""
    value = parameters.get(name, {})
    if isinstance(value, str):
        raise invalid_value(name, f"Invalid object: {name} is a string")
    return value


def metadata(parameters: Parameters) -> dict[str, str]:
    """The `metadata` of a creation."""
    entries = mapping(parameters, "metadata")
    found: dict[str, str] = {}
    for key, value in entries.items():
        if not isinstance(value, str):
            raise invalid_value(f"metadata[{key}]", "Metadata values must be strings.")
        found[key] = value
    return found


def sequence(parameters: Parameters, name: str) -> list[Value]:
    """A list in the order of its positions; empty when it is not there."""
    entries = mapping(parameters, name)
    if not all(key.isascii() and key.isdecimal() for key in entries):
        raise invalid_value(name, "Invalid array")
    return [entries[key] for key in sorted(entries, key=int)]


def strings(parameters: Parameters, name: str) -> list[str]:
    """A list of strings."""
    values = sequence(parameters, name)
    found = [value for value in values if isinstance(value, str)]
    if len(found) != len(values):
        raise invalid_value(name, "Invalid array: expected strings")
    return found
