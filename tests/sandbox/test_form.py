"""Form decoding and the reading of parameters."""

import json
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stripe._encode import _api_encode

from app.sandbox import parameters
from app.sandbox.errors import StripeError
from app.sandbox.form import Value, decode
from app.sandbox.idempotency import fingerprint

_NAMES = st.text(st.characters(codec="utf-8", exclude_characters="[]\x00"), min_size=1, max_size=8)
_TEXTS = st.text(st.characters(codec="utf-8"), max_size=12)


@pytest.mark.parametrize(
    ("encoded", "decoded"),
    [
        (b"", {}),
        (b"a=1&b=", {"a": "1", "b": ""}),
        (b"a=1&a=2", {"a": "2"}),
        (b"metadata[team]=a%20b", {"metadata": {"team": "a b"}}),
        (b"items%5B0%5D%5Bprice%5D=p", {"items": {"0": {"price": "p"}}}),
        (b"expand[]=x&expand[]=y", {"expand": {"0": "x", "1": "y"}}),
        (b"a%5=1", {"a%5": "1"}),
    ],
)
def test_decodes(encoded: bytes, decoded: dict[str, Value]) -> None:
    assert decode(encoded) == decoded


@pytest.mark.parametrize(
    "encoded",
    [
        b"a[=1",
        b"a[]]=1",
        b"[a]=1",
        b"a[b=1",
        b"a[b]c=1",
        b"a[[b]]=1",
        b"a[][b]=1",
        b"a=1&a[b]=2",
        b"a[b]=2&a=1",
        b"a[b]=1&a[b][c]=2",
        b"a" + b"[b]" * 9 + b"=1",
        b"a=%ff",
        b"\xff=1",
        b"&".join(b"a%d=1" % n for n in range(1_001)),
    ],
)
def test_refuses_what_is_no_form(encoded: bytes) -> None:
    with pytest.raises(StripeError) as refused:
        decode(encoded)
    assert refused.value.status == 400


@given(
    st.dictionaries(
        _NAMES,
        _TEXTS
        | st.dictionaries(_NAMES, _TEXTS, min_size=1, max_size=3)
        | st.lists(st.dictionaries(_NAMES, _TEXTS, min_size=1, max_size=3), min_size=1, max_size=3),
        max_size=4,
    )
)
def test_decodes_what_the_official_client_encodes(
    sent: dict[str, str | dict[str, str] | list[dict[str, str]]],
) -> None:
    encoded = urlencode(list(_api_encode(sent, "V1"))).replace("%5B", "[").replace("%5D", "]")
    expected = {
        name: {str(n): entry for n, entry in enumerate(value)} if isinstance(value, list) else value
        for name, value in sent.items()
    }
    assert decode(encoded.encode()) == expected


@pytest.mark.parametrize("text", ["0", "7", "+7", "007", str(2**63 - 1)])
def test_integers_are_digits(text: str) -> None:
    assert parameters.integer({"n": text}, "n") == int(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("10.0", "Invalid integer: 10.0"),
        ("1e3", "Invalid integer: 1e3"),
        ("1.5", "Invalid integer: 1.5"),
        ("1_000", "Invalid integer: 1_000"),
        (" 1", "Invalid integer:  1"),
        ("\u0661\u0662", "Invalid integer: \u0661\u0662"),
        ("abc", "Invalid integer: abc"),
        (str(2**63), f"Invalid integer: {2**63}"),
        ("9" * 5_000, f"Invalid integer: {'9' * 5_000}"),
        ("-1", "This value must be greater than or equal to 0 (it currently is '-1')."),
        ("", "You passed an empty string for 'n'."),
    ],
)
def test_other_integers_are_refused(text: str, message: str) -> None:
    with pytest.raises(StripeError) as refused:
        parameters.integer({"n": text}, "n")
    assert refused.value.message.startswith(message)
    assert refused.value.param == "n"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": "1"}, {"a": "2"}),
        ({"a": "1&b=2"}, {"a": "1", "b": "2"}),
        ({"a": {"b": "1"}}, {"a": "b1"}),
        ({"a": "1"}, {"a": "1", "b": ""}),
    ],
)
def test_a_fingerprint_tells_parameters_apart(
    one: dict[str, Value], other: dict[str, Value]
) -> None:
    assert fingerprint("POST", "/v1/x", one) != fingerprint("POST", "/v1/x", other)


def test_a_fingerprint_does_not_see_the_order() -> None:
    one: dict[str, Value] = json.loads('{"a": "1", "b": {"c": "2", "d": "3"}}')
    other: dict[str, Value] = json.loads('{"b": {"d": "3", "c": "2"}, "a": "1"}')
    assert fingerprint("POST", "/v1/x", one) == fingerprint("POST", "/v1/x", other)
    assert fingerprint("POST", "/v1/x", one) != fingerprint("POST", "/v1/y", one)
