"""JSON without the liberties of Python's reader: what can be read in two ways is refused.

Numbers become `Decimal` digit by digit; a float would bill 0.1 as 0.1000000000000000055. Those
that no quantity can be are told apart as they are read, once for each.
"""

import json
from decimal import Decimal, InvalidOperation
from typing import Any, NoReturn

# Stands where a number was that no quantity can be: out of bounds, NaN or Infinity. Reading goes
# on, so that the refusal can name the path; and most such numbers are in members nobody reads.
UNUSABLE = Decimal("NaN")

# OpenMeter computes in float64, whose printed numbers have at most 17 digits and end at most 340
# places after the point. These bounds hold all of them that are below 1e30, and no quantity of
# Stripe's (int64) is above. What is longer was never measured and would only cost work.
_MAX_ADJUSTED_EXPONENT = 29
_MIN_EXPONENT = -400
_MAX_EXPONENT = 30
_MAX_DIGITS = 450

# The digits that a quantity may have, its sign, point and exponent, and room to spare. It bounds
# the work: a body of a million digits is never converted.
_LONGEST_NUMBER = 512
# Without an exponent, so few characters cannot leave the bounds.
_SHORT_NUMBER = 30


class NotStrictJson(Exception):
    """The body is not JSON as RFC 8259 has it. The message is constant, without the input."""


def number(text: str) -> Decimal:
    """A JSON number exactly as written, or UNUSABLE where it is out of bounds."""
    if len(text) <= _SHORT_NUMBER and "e" not in text and "E" not in text:
        return Decimal(text)
    if len(text) > _LONGEST_NUMBER:
        return UNUSABLE
    try:
        read = Decimal(text)
    except InvalidOperation:  # an exponent of twenty digits
        return UNUSABLE
    return read if _within_bounds(read) else UNUSABLE


def _within_bounds(read: Decimal) -> bool:
    _, digits, exponent = read.as_tuple()
    return (
        isinstance(exponent, int)
        and _MIN_EXPONENT <= exponent <= _MAX_EXPONENT
        and read.adjusted() <= _MAX_ADJUSTED_EXPONENT
        and len(digits) <= _MAX_DIGITS
    )


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
