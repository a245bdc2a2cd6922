"""The mapping file: what an operator may write, and what is said of everything else."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from app.errors import InvalidMapping
from app.mapping.entries import parse_scale
from app.mapping.file import MappingFile, Mappings, from_yaml, to_mappings
from app.mapping.models import (
    LatePolicy,
    MeterMapping,
    PriceSelector,
    RecordPer,
    Rounding,
    SubjectMapping,
    TimestampRule,
)

JANUARY = datetime(2026, 1, 1, tzinfo=UTC)
JULY = datetime(2026, 7, 1, tzinfo=UTC)


def read(text: str) -> Mappings:
    return to_mappings(from_yaml(text))


def test_the_whole_file() -> None:
    assert read(
        """
        meters:
          - meter: ai_prompt_tokens
            price: price_tokens        # a comment
            scale: 1/1000
            rounding: down
            timestamp: window_end
          - {meter: requests, price: [price_1, price_2]}
        subjects:
          - {subject: customer-1, subscription: sub_2, valid_from: 2026-07-01}
          - {subject: customer-1, subscription: sub_1, valid_to: "2026-07-01T02:00:00+02:00"}
          - subject: Kunde № 2
            subscription: sub_1
        """
    ) == Mappings(
        meters={
            "ai_prompt_tokens": (
                MeterMapping(
                    "ai_prompt_tokens",
                    PriceSelector(ids=frozenset({"price_tokens"})),
                    Fraction(1, 1000),
                    Rounding.DOWN,
                    TimestampRule.WINDOW_END,
                ),
            ),
            "requests": (
                MeterMapping("requests", PriceSelector(ids=frozenset({"price_1", "price_2"}))),
            ),
        },
        subjects={
            "customer-1": (
                SubjectMapping("customer-1", "sub_1", None, JULY),
                SubjectMapping("customer-1", "sub_2", JULY, None),
            ),
            "Kunde № 2": (SubjectMapping("Kunde № 2", "sub_1"),),
        },
    )


def test_a_meter_split_by_group() -> None:
    split = read(
        """
        meters:
          - {meter: tokens, price: price_rest, late: carry_forward}
          - {meter: tokens, price: price_4, groups: {type: input, model: gpt-4}, record_per: day}
          - {meter: tokens, price: price_3, groups: {model: gpt-3}, scale: 1/1000, late: hold}
          - {meter: tokens, price: price_0, groups: {model: ""}, whole_period: true,
             record_per: period}
        """
    ).meters["tokens"]
    assert split == (
        MeterMapping(
            "tokens",
            PriceSelector(ids=frozenset({"price_rest"})),
            late_policy=LatePolicy.CARRY_FORWARD,
        ),
        MeterMapping(
            "tokens",
            PriceSelector(ids=frozenset({"price_0"})),
            group_filter=(("model", ""),),
            record_per=RecordPer.PERIOD,
            whole_period=True,
        ),
        MeterMapping(
            "tokens",
            PriceSelector(ids=frozenset({"price_3"})),
            Fraction(1, 1000),
            group_filter=(("model", "gpt-3"),),
            late_policy=LatePolicy.HOLD,
        ),
        MeterMapping(
            "tokens",
            PriceSelector(ids=frozenset({"price_4"})),
            group_filter=(("model", "gpt-4"), ("type", "input")),
            record_per=RecordPer.DAY,
        ),
    )


@pytest.mark.parametrize(
    ("written", "mapping"),
    [
        ("whole_period: true", {"whole_period": True}),
        ("whole_period: false", {}),
        ("whole_period: true, record_per: period", {"record_per": "period", "whole_period": True}),
        ("whole_period: true, record_per: window", {"whole_period": True}),
        ("record_per: window", {}),
        ("record_per: hour", {"record_per": "hour"}),
        ("late: hold", {"late_policy": "hold"}),
        ("late: carry_forward", {"late_policy": "carry_forward"}),
    ],
)
def test_what_a_meter_may_say_of_its_records(written: str, mapping: dict[str, Any]) -> None:
    (found,) = read(f"meters: [{{meter: m, price: p, {written}}}]").meters["m"]
    plain = MeterMapping("m", PriceSelector(ids=frozenset({"p"})))
    assert found == replace(plain, **mapping)


@pytest.mark.parametrize(("flag", "taken"), [(True, True), (False, True), (1, False), (0, False)])
def test_a_flag_in_json_is_a_boolean(flag: object, taken: bool) -> None:
    body = json.dumps({"meters": [{"meter": "m", "price": "p", "whole_period": flag}]})
    if taken:
        (found,) = to_mappings(MappingFile.model_validate_json(body)).meters["m"]
        assert found.whole_period is flag
    else:
        with pytest.raises(ValidationError, match="must be true or false"):
            MappingFile.model_validate_json(body)


def test_a_filter_of_the_largest_size_is_taken() -> None:
    groups = {f"{n:0250}": "v" for n in range(7)} | {"ü": "v" * 234}
    assert sum(len((name + value).encode()) for name, value in groups.items()) == 1_993
    entry = {"meter": "m", "price": "p", "groups": groups}
    (found,) = to_mappings(MappingFile.model_validate({"meters": [entry]})).meters["m"]
    assert dict(found.group_filter) == groups


def test_a_meter_is_split_as_far_as_it_may_be() -> None:
    entries = [
        {"meter": "m", "price": "p", "groups": {"model": str(number)}} for number in range(501)
    ]
    file = MappingFile.model_validate({"meters": entries[:500]})
    assert len(to_mappings(file).meters["m"]) == 500
    with pytest.raises(InvalidMapping) as caught:
        to_mappings(MappingFile.model_validate({"meters": entries}))
    assert [fault.path for fault in caught.value.faults] == ["meters[500].meter"]


SELECTORS = [
    ("price: price_1", PriceSelector(ids=frozenset({"price_1"}))),
    ("price: [price_1]", PriceSelector(ids=frozenset({"price_1"}))),
    ("price: [b, a, b]", PriceSelector(ids=frozenset({"a", "b"}))),
    ("lookup_key: tokens", PriceSelector(lookup_key="tokens")),
    ("price: {lookup_key: tokens}", PriceSelector(lookup_key="tokens")),
    ("metadata: {b: 2, a: x}", PriceSelector(metadata=(("a", "x"), ("b", "2")))),
    ("price: {metadata: {b: 2, a: x}}", PriceSelector(metadata=(("a", "x"), ("b", "2")))),
]


@pytest.mark.parametrize(("written", "selector"), SELECTORS)
def test_each_spelling_of_a_price(written: str, selector: PriceSelector) -> None:
    (mapping,) = read(f"meters: [{{meter: m, {written}}}]").meters["m"]
    assert mapping.price == selector


SCALES = [
    ("1", Fraction(1)),
    ("0.001", Fraction(1, 1000)),
    ("0.1", Fraction(1, 10)),
    ("1/3", Fraction(1, 3)),
    ("2/4", Fraction(1, 2)),
    ("1000", Fraction(1000)),
    ("007", Fraction(7)),
    ("1.50", Fraction(3, 2)),
    ("0.000000000000000000000000000001", Fraction(1, 10**30)),
    ("999999999999999999999999999999/7", Fraction(10**30 - 1, 7)),
]


@pytest.mark.parametrize(("written", "scale"), SCALES)
def test_a_scale_is_exact(written: str, scale: Fraction) -> None:
    (mapping,) = read(f"meters: [{{meter: m, price: p, scale: {written}}}]").meters["m"]
    assert mapping.scale == scale


@given(st.integers(1, 10**30 - 1), st.integers(1, 10**30 - 1))
def test_every_fraction_is_read_as_itself(numerator: int, denominator: int) -> None:
    assert parse_scale(f"{numerator}/{denominator}") == Fraction(numerator, denominator)


@given(st.text())
def test_a_scale_is_read_or_refused(text: str) -> None:
    try:
        scale = parse_scale(text)
    except ValueError:
        return
    assert scale > 0
    assert Fraction(text) == scale


TIMES = [
    ("2026-01-01", JANUARY),
    ("2026-01-01T00:00:00Z", JANUARY),
    ("2026-01-01T01:00:00+01:00", JANUARY),
    ("2026-01-01 00:00:00+00:00", JANUARY),
    ('"2026-01-01"', JANUARY),
]


@pytest.mark.parametrize(("written", "at"), TIMES)
def test_times_are_normalised_to_utc(written: str, at: datetime) -> None:
    text = f"subjects: [{{subject: s, subscription: sub, valid_from: {written}}}]"
    (found,) = read(text).subjects["s"]
    assert (found.valid_from, found.valid_to) == (at, None)


def test_scalars_stay_as_they_are_written() -> None:
    """YAML would read these as 83, 100000.0, True and None."""
    text = "subjects: [{subject: 0123, subscription: 1e5}, {subject: yes, subscription: null}]"
    found = read(text).subjects
    assert {name: span.subscription for name, (span,) in found.items()} == {
        "0123": "1e5",
        "yes": "null",
    }


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing yet\n", "{}", "---\n", "meters: []"])
def test_a_file_without_entries_changes_nothing(text: str) -> None:
    assert read(text) == Mappings({}, {})


# Two spans of one subject, from or to a month of 2026, and whether they overlap.
SPANS = [
    ((None, None), (None, None), True),
    ((None, 7), (7, None), False),
    ((7, None), (None, 7), False),
    ((None, 7), (6, None), True),
    ((1, 3), (3, 5), False),
    ((3, 5), (1, 3), False),
    ((1, 4), (3, 5), True),
    ((1, 9), (3, 5), True),
    ((3, 5), (1, 9), True),
    ((None, None), (3, 5), True),
    ((3, 5), (None, 4), True),
]


def written(number: int, months: tuple[int | None, int | None]) -> str:
    bounds = zip(("valid_from", "valid_to"), months, strict=True)
    members = [f"{name}: 2026-0{month}-01" for name, month in bounds if month]
    return "{" + ", ".join(["subject: s", f"subscription: sub_{number}", *members]) + "}"


@pytest.mark.parametrize(("one", "other", "overlap"), SPANS)
def test_a_subject_has_one_subscription_at_a_time(
    one: tuple[int | None, int | None], other: tuple[int | None, int | None], overlap: bool
) -> None:
    text = f"subjects: [{written(1, one)}, {written(2, other)}]"
    if overlap:
        with pytest.raises(InvalidMapping) as caught:
            read(text)
        assert [fault.path for fault in caught.value.faults] == ["subjects[1]"]
    else:
        spans = read(text).subjects["s"]
        assert sorted(span.subscription for span in spans) == ["sub_1", "sub_2"]
        assert spans[0].valid_to == spans[1].valid_from


JSON_SCALES: list[tuple[Any, bool]] = [
    ("0.001", True),
    ("1/3", True),
    (2, True),
    (0.001, False),
    (1.0, False),
    (True, False),
    (None, False),
    (0, False),
]


@pytest.mark.parametrize(("scale", "sound"), JSON_SCALES)
def test_a_scale_in_json_is_text_or_whole_never_a_float(scale: object, sound: bool) -> None:
    body = json.dumps({"meters": [{"meter": "m", "price": "p", "scale": scale}]})
    if sound:
        (found,) = to_mappings(MappingFile.model_validate_json(body)).meters["m"]
        assert found.scale == Fraction(str(scale))
    else:
        with pytest.raises(ValidationError) as caught:
            MappingFile.model_validate_json(body)
        assert [error["loc"] for error in caught.value.errors()] == [("meters", 0, "scale")]
