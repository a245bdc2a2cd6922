"""Reads the members of a JSON object by name and type.

Members that nobody asks for are tolerated: Stripe adds some all the time. One that is asked for
and missing or of another type is a `MalformedAnswer` that names its path, never its value. Pure.
"""

import json
from collections.abc import Iterator
from decimal import Decimal
from typing import NoReturn

from app.stripe_client.errors import MalformedAnswer
from app.stripe_client.meta import AnswerMeta


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


# `json.loads` with arguments of its own makes a decoder each time.
_DECODER = json.JSONDecoder(parse_float=Decimal, parse_constant=_refuse_constant)


def parse_object(body: bytes, meta: AnswerMeta) -> "Members":
    """The JSON object in `body`. Fractions become `Decimal`, never `float`."""
    try:
        value = _DECODER.decode(body.decode())
    except RecursionError:
        raise MalformedAnswer("the body is nested too deeply", meta=meta) from None
    except ValueError:
        raise MalformedAnswer("the body is not JSON", meta=meta) from None
    return Members(value, at="", meta=meta)


class Members:
    """One JSON object inside an answer, and where it stands in it."""

    __slots__ = ("_at", "_members", "meta")

    def __init__(self, value: object, *, at: str, meta: AnswerMeta) -> None:
        self.meta = meta
        self._at = at
        if not isinstance(value, dict):
            raise MalformedAnswer(f"{at or 'the body'} is not an object", meta=meta)
        self._members: dict[str, object] = value

    def has(self, name: str) -> bool:
        """Whether the member is there and not null."""
        return self._members.get(name) is not None

    def text(self, name: str) -> str:
        """A text that is not empty."""
        value = self._members.get(name)
        return value if isinstance(value, str) and value else self._refuse(name, "a text")

    def text_or_none(self, name: str) -> str | None:
        """A text, or `None` when it is missing, null or empty."""
        return self.text(name) if self._members.get(name) not in (None, "") else None

    def id_of(self, name: str) -> str:
        """The id of another object, which may stand here expanded."""
        if isinstance(self._members.get(name), dict):
            return self.members(name).text("id")
        return self.text(name)

    def id_of_or_none(self, name: str) -> str | None:
        """The id of another object, or `None`."""
        return self.id_of(name) if self.has(name) else None

    def integer(self, name: str) -> int:
        """A whole number: neither `true` nor `1.0`."""
        value = self._members.get(name)
        return value if type(value) is int else self._refuse(name, "a whole number")

    def integer_or_none(self, name: str) -> int | None:
        """A whole number, or `None` when it is missing or null."""
        return self.integer(name) if self.has(name) else None

    def boolean(self, name: str) -> bool:
        """True or false."""
        value = self._members.get(name)
        return value if isinstance(value, bool) else self._refuse(name, "true or false")

    def boolean_or(self, name: str, *, default: bool) -> bool:
        """True or false, or the default when it is missing or null."""
        return self.boolean(name) if self.has(name) else default

    def texts(self, name: str) -> dict[str, str]:
        """An object of texts (metadata); empty when it is missing or null."""
        value = self._members.get(name)
        if value is None:
            return {}
        if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
            return self._refuse(name, "an object of texts")
        return dict(value)

    def members(self, name: str) -> "Members":
        """Another object."""
        return Members(self._members.get(name), at=self._path(name), meta=self.meta)

    def each(self, name: str) -> Iterator["Members"]:
        """The objects of a list."""
        value = self._members.get(name)
        if not isinstance(value, list):
            self._refuse(name, "a list")
        for index, inner in enumerate(value):
            yield Members(inner, at=f"{self._path(name)}[{index}]", meta=self.meta)

    def expect(self, name: str, wanted: str | int) -> None:
        """That the member is exactly what was asked for."""
        value = self._members.get(name)
        if type(value) is not type(wanted) or value != wanted:
            self._refuse(name, "what was asked for")

    def _path(self, name: str) -> str:
        return f"{self._at}.{name}" if self._at else name

    def _refuse(self, name: str, wanted: str) -> NoReturn:
        missing = "" if name in self._members else " (it is missing)"
        raise MalformedAnswer(f"{self._path(name)} is not {wanted}{missing}", meta=self.meta)
