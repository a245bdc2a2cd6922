"""Form encoding with nested names: `items[0][price]=price_1`, `metadata[team]=a`, `expand[]=x`."""

from collections.abc import Iterator, Mapping
from urllib.parse import parse_qsl

from app.sandbox.errors import StripeError, invalid_value

Value = str | dict[str, "Value"]
Parameters = Mapping[str, Value]

_MOST_FIELDS = 1_000
_DEEPEST = 8


def decode(encoded: bytes) -> dict[str, Value]:
    """Parameters as nested dicts; list positions are keys (`{"items": {"0": {...}}}`).

    Raises StripeError (400) for what is no form: bad UTF-8, too many fields, unbalanced names.
    """
    try:
        pairs = parse_qsl(
            encoded.decode(),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=_MOST_FIELDS,
        )
    except (UnicodeDecodeError, ValueError) as error:
        raise StripeError(400, "Invalid form encoding.") from error
    if b"[" not in encoded and b"%5" not in encoded:
        return dict(pairs)
    tree: dict[str, Value] = {}
    for name, value in pairs:
        _insert(tree, name, value)
    return tree


def canonical(parameters: Parameters, prefix: str = "") -> Iterator[tuple[str, str]]:
    """The parameters flat and in a fixed order: what an idempotency key is bound to."""
    for name in sorted(parameters):
        value = parameters[name]
        if isinstance(value, str):
            yield prefix + name, value
        else:
            yield from canonical(value, f"{prefix}{name}.")


def _insert(tree: dict[str, Value], name: str, value: str) -> None:
    *branches, leaf = _path(name)
    node = tree
    for branch in branches:
        below = node.setdefault(branch, {})
        if isinstance(below, str):
            raise invalid_value(name, f"Invalid parameter: {name}")
        node = below
    key = leaf or str(len(node))
    if isinstance(node.get(key), dict):
        raise invalid_value(name, f"Invalid parameter: {name}")
    node[key] = value


def _path(name: str) -> list[str]:
    head, bracket, rest = name.partition("[")
    if not bracket:
        return [name]
    if not head or not rest.endswith("]") or rest.count("[") >= _DEEPEST:
        raise invalid_value(name, f"Invalid parameter: {name}")
    parts = rest[:-1].split("][")
    if any("[" in part or "]" in part for part in parts) or "" in parts[:-1]:
        raise invalid_value(name, f"Invalid parameter: {name}")
    return [head, *parts]
