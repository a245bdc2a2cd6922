"""Form bodies, ids in paths, header values."""

from decimal import Decimal
from typing import Any
from urllib.parse import parse_qsl, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.stripe_client.encoding import encode_form, header_value, path_segment, whole_number


@pytest.mark.parametrize(
    ("fields", "encoded"),
    [
        ({}, ""),
        ({"a": "b", "c": {"d": "e"}, "list": ["x"]}, "a=b&c[d]=e&list[0]=x"),
        ({"quantity": 10, "timestamp": 1571252444, "action": "set"},
         "quantity=10&timestamp=1571252444&action=set"),
        ({"b": "2", "a": "1"}, "b=2&a=1"),
        ({"deep": {"er": {"list": [{"x": 1}, {"x": 2}]}}},
         "deep[er][list][0][x]=1&deep[er][list][1][x]=2"),
        ({"t": True, "f": False}, "t=true&f=false"),
        ({"empty": "", "space": "a b", "plus": "a+b", "amp": "a&b=c"},
         "empty=&space=a+b&plus=a%2Bb&amp=a%26b%3Dc"),
        ({"text": "é\n%"}, "text=%C3%A9%0A%25"),
        ({"metadata": {"a&b": "x"}}, "metadata[a%26b]=x"),
        ({"big": 10**30}, "big=" + "1" + "0" * 30),
    ],
)  # fmt: skip
def test_a_form_is_written_as_stripe_reads_it(fields: dict[str, Any], encoded: str) -> None:
    assert encode_form(fields) == encoded


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"quantity": 1.5}, TypeError),
        ({"quantity": 10.0}, TypeError),
        ({"quantity": Decimal(1)}, TypeError),
        ({"x": None}, TypeError),
        ({"x": b"bytes"}, TypeError),
        ({"x": {1: "number as name"}}, TypeError),
        ({"x]": "1"}, ValueError),
        ({"x": {"a[b": "1"}}, ValueError),
        ({"": "1"}, ValueError),
    ],
)
def test_what_has_no_one_spelling_is_refused(
    fields: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        encode_form(fields)


names = st.text(min_size=1).filter(lambda name: "[" not in name and "]" not in name)


@given(st.dictionaries(names, st.text(), max_size=8))
def test_any_text_survives_the_way(fields: dict[str, str]) -> None:
    assert dict(parse_qsl(encode_form(fields), keep_blank_values=True)) == fields


@given(st.dictionaries(names, st.text()))
def test_a_form_is_ascii(fields: dict[str, str]) -> None:
    assert encode_form(fields).isascii()


@pytest.mark.parametrize(
    ("identifier", "segment"),
    [
        ("si_RkRZDOFoFK0lDA", "si_RkRZDOFoFK0lDA"),
        ("gold plan", "gold%20plan"),
        ("100%", "100%25"),
        ("a?b#c", "a%3Fb%23c"),
        ("a%2fb", "a%252fb"),
        ("größe", "gr%C3%B6%C3%9Fe"),
        ("v1.2", "v1.2"),
    ],
)
def test_an_id_is_one_segment(identifier: str, segment: str) -> None:
    assert path_segment("price", identifier) == segment


@pytest.mark.parametrize(
    "identifier",
    ["", " ", ".", "..", "...", "../v1/charges", "si_1/usage_records", "a\\b", "si\n1", "si_1\x00",
     "si_1 ", " si_1", "x" * 256, "a\u202eb"],
)  # fmt: skip
def test_an_id_that_could_lead_elsewhere_is_refused(identifier: str) -> None:
    with pytest.raises(ValueError, match="subscription_item"):
        path_segment("subscription_item", identifier)


@given(st.text(max_size=20))
def test_a_segment_never_leaves_its_place(identifier: str) -> None:
    try:
        segment = path_segment("id", identifier)
    except ValueError:
        return
    assert not set("/?#\\ ") & set(segment)
    assert segment not in {"", ".", ".."}
    assert unquote(segment) == identifier


@pytest.mark.parametrize(
    "value", ["", " ", "a b", "a\r\nX-Injected: 1", "a\n", "é", "\x7f", "x" * 256]
)
def test_a_header_value_is_visible_ascii(value: str) -> None:
    with pytest.raises(ValueError, match="the API key") as caught:
        header_value("the API key", value)
    assert len(value.strip()) < 2 or value not in str(caught.value)


@pytest.mark.parametrize("value", [-1, True, False, 1.0, Decimal(1), "1", None])
def test_a_quantity_is_a_whole_number_and_not_negative(value: Any) -> None:
    with pytest.raises(ValueError, match="quantity"):
        whole_number("quantity", value)
