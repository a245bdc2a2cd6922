"""JSON without the liberties of Python's reader: what can be read in two ways is refused.

Numbers become `Decimal` digit by digit; a float would bill 0.1 as 0.1000000000000000055.
"""

import json
from decimal import Decimal, InvalidOperation
from typing import Any, NoReturn

# Stands where a number was that no value can be: too long, an absurd exponent, NaN or Infinity.
# Reading goes on, so that the refusal can name the path.
UNUSABLE = Decimal("NaN")

# The 450 digits that a value may have, its sign, point and exponent, and room to spare. It bounds
# the work: a body of a million digits is never converted.
_LONGEST_NUMBER = 512


class NotStrictJson(Exception):
    """The body is not JSON as RFC 8259 has it. The message is constant, without the input."""


def number(text: str) -> Decimal:
    """A JSON number exactly as written, or UNUSABLE."""
    if len(text) > _LONGEST_NUMBER:
        return UNUSABLE
    try:
        return Decimal(text)
    except InvalidOperation:
        return UNUSABLE


def read_json(body: bytes) -> object:
    """The value of a UTF-8 JSON text. Raises NotStrictJson.

    Refused beside syntax errors: a byte order mark, another encoding, a member given twice in one
    object (which one would count is anybody's guess), and nesting deeper than the stack. NaN and
    Infinity are read as UNUSABLE; see `refuse_constants`.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise NotStrictJson("is not UTF-8") from None
    try:
        value: object = _READER.decode(text)
    except RecursionError:
        raise NotStrictJson("is nested too deeply") from None
    except ValueError:
        raise NotStrictJson("is not JSON") from None
    return value


def refuse_constants(body: bytes) -> None:
    """Raises NotStrictJson where a text that `read_json` has read holds NaN or Infinity.

    Of its own, so that a value of NaN is first refused where it stands, by its path; what is left
    are members that nobody reads. Two searches: cheap for the bodies that hold neither.
    """
    if b"NaN" in body or b"Infinity" in body:
        _CONSTANTS_REFUSED.decode(body.decode())


def _object(members: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(members)
    if len(found) != len(members):
        raise NotStrictJson("has an object with the same member twice")
    return found


def _unusable(_: str) -> Decimal:
    return UNUSABLE


def _refuse(_: str) -> NoReturn:
    raise NotStrictJson("is not JSON: it holds NaN or Infinity")


_READER = json.JSONDecoder(
    object_pairs_hook=_object, parse_float=number, parse_int=number, parse_constant=_unusable
)
_CONSTANTS_REFUSED = json.JSONDecoder(
    parse_float=_unusable, parse_int=_unusable, parse_constant=_refuse
)
