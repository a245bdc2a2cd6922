"""What an apply changes, in words."""

from dataclasses import replace
from datetime import UTC, datetime
from fractions import Fraction

from app.mapping.file import Mappings
from app.mapping.models import LatePolicy, PriceSelector, RecordPer, Rounding, TimestampRule
from app.mapping.plan import MappingChange, changes, describe_split
from tests.mapping.stripe_side import meter, price, span

JULY = datetime(2026, 7, 1, tzinfo=UTC)
STANDING = Mappings(
    {"requests": (meter("requests"),), "tokens": (meter("tokens"),)},
    {"customer-1": (span("sub_1"),), "customer-2": (span("sub_2", subject="customer-2"),)},
)


def test_what_stands_as_wanted_is_no_change() -> None:
    assert list(changes(STANDING, STANDING)) == []
    assert list(changes(STANDING, Mappings({"tokens": (meter("tokens"),)}, {}))) == []


def test_a_split_meter_is_told_by_group_and_the_rest_last() -> None:
    split = (
        replace(meter(), late_policy=LatePolicy.CARRY_FORWARD),
        replace(
            meter(selector=price("price_3")),
            group_filter=(("model", "gpt-3"), ("type", "input")),
            record_per=RecordPer.DAY,
            late_policy=LatePolicy.HOLD,
        ),
        replace(
            meter(selector=price("price_4")), group_filter=(("model", "gpt-4"),), whole_period=True
        ),
    )
    words = (
        "model=gpt-3, type=input: price price_3, a record per day, late: hold; "
        "model=gpt-4: price price_4, whole period"
    )
    assert describe_split(split) == f"{words}; else: price price_1, late: carry_forward"
    assert describe_split(split[1:]) == words
    assert list(changes(Mappings({"tokens": (meter(),)}, {}), Mappings({"tokens": split}, {}))) == [
        MappingChange("meter", "tokens", "price price_1", describe_split(split))
    ]


def test_what_is_new_has_no_before_and_meters_come_first() -> None:
    assert list(changes(Mappings({}, {}), STANDING)) == [
        MappingChange("meter", "requests", "", "price price_1"),
        MappingChange("meter", "tokens", "", "price price_1"),
        MappingChange("subject", "customer-1", "", "sub_1"),
        MappingChange("subject", "customer-2", "", "sub_2"),
    ]


def test_a_change_is_told_with_all_that_is_not_the_default() -> None:
    wanted = Mappings(
        {
            "requests": (meter("requests", selector=price("price_2", "price_1")),),
            "tokens": (
                meter(
                    "tokens",
                    selector=PriceSelector(metadata=(("a", "1"), ("b", "2"))),
                    scale=Fraction(1, 1000),
                    rounding=Rounding.UP,
                    rule=TimestampRule.WINDOW_END,
                ),
            ),
            "calls": (meter("calls", selector=PriceSelector(lookup_key="calls")),),
        },
        {"customer-1": (span("sub_1", valid_to=JULY), span("sub_9", valid_from=JULY))},
    )
    assert list(changes(STANDING, wanted)) == [
        MappingChange("meter", "calls", "", "the price with lookup_key calls"),
        MappingChange("meter", "requests", "price price_1", "price price_1 or price_2"),
        MappingChange(
            "meter",
            "tokens",
            "price price_1",
            "the price with metadata a=1, b=2, scale 1/1000, rounding up, timestamp window_end",
        ),
        MappingChange(
            "subject",
            "customer-1",
            "sub_1",
            "sub_1 to 2026-07-01T00:00:00+00:00; sub_9 from 2026-07-01T00:00:00+00:00",
        ),
    ]
