"""How Stripe wants requests written: form bodies, query strings, ids in paths, header values.

Pure. Everything that could be misread on the way is refused here with a `ValueError` or
`TypeError`, before anything is sent.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from urllib.parse import quote, quote_plus

LONGEST_IDEMPOTENCY_KEY = 255
LONGEST_ID = 255

_VISIBLE = re.compile(r"[!-~]+", re.ASCII)

FormValue = str | int | bool | Mapping[str, "FormValue"] | Sequence["FormValue"]


def encode_form(fields: Mapping[str, FormValue]) -> str:
    """`{"a": "b", "c": {"d": 1}, "list": ["x"]}` becomes `a=b&c[d]=1&list[0]=x`.

    Order is kept, so that one key always goes with one body: Stripe binds an idempotency key to
    the parameters. Floats, Decimals and None have no one spelling and raise `TypeError`.
    """
    return "&".join(
        f"{quote_plus(name, safe='[]')}={quote_plus(value)}"
        for key, field in fields.items()
        for name, value in _flatten(_plain_name(key), field)
    )


def _flatten(name: str, field: FormValue) -> Iterator[tuple[str, str]]:
    if isinstance(field, bool):
        yield name, "true" if field else "false"
    elif isinstance(field, str):
        yield name, str(field)
    elif isinstance(field, int):
        yield name, str(int(field))
    elif isinstance(field, Mapping):
        for key, inner in field.items():
            yield from _flatten(f"{name}[{_plain_name(key)}]", inner)
    elif isinstance(field, Sequence) and not isinstance(field, bytes | bytearray):
        for index, inner in enumerate(field):
            yield from _flatten(f"{name}[{index}]", inner)
    else:
        raise TypeError(f"{name}: a {type(field).__name__} has no form encoding")


def _plain_name(key: object) -> str:
    if not isinstance(key, str):
        raise TypeError(f"a field's name must be text, not {type(key).__name__}")
    if not key or "[" in key or "]" in key:
        raise ValueError("a field's name must not be empty or contain brackets")
    return key


def path_segment(what: str, identifier: str) -> str:
    """An id as one segment of a path, percent-encoded.

    Old plan and customer ids are free text, so anything printable passes; but `..`, a slash that
    some hop decodes, or a control character must never reach another endpoint.
    """
    if not isinstance(identifier, str):
        raise TypeError(f"{what} must be text, not {type(identifier).__name__}")
    if (
        not identifier
        or len(identifier) > LONGEST_ID
        or not identifier.isprintable()
        or identifier != identifier.strip()
        or "/" in identifier
        or "\\" in identifier
        or set(identifier) == {"."}
    ):
        raise ValueError(f"{what} is not a usable Stripe id")
    return quote(identifier, safe="")


def header_value(what: str, value: str, *, longest: int = LONGEST_ID) -> str:
    """A value fit for a header: visible ASCII without spaces, 1 to `longest` characters.

    The message never holds the value: it may be a secret.
    """
    if not isinstance(value, str):
        raise TypeError(f"{what} must be text, not {type(value).__name__}")
    if not 0 < len(value) <= longest:
        raise ValueError(f"{what} must have 1 to {longest} characters, not {len(value)}")
    if not _VISIBLE.fullmatch(value):
        raise ValueError(f"{what} must be visible ASCII without spaces")
    return value


def whole_number(what: str, value: int) -> int:
    """A non-negative `int` that is no `bool`; Stripe refuses `10.0`, `1e3` and `1.5`."""
    if type(value) is not int:
        raise ValueError(f"{what} must be a whole number, not {type(value).__name__}")
    if value < 0:
        raise ValueError(f"{what} must not be negative")
    return value
