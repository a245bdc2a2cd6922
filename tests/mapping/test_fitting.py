"""What is refused when a mapping is applied, what is only told, and what was not known."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from app.mapping.file import Mappings
from app.mapping.fitting import Fit, MappingNote, Seen, fit, whole_periods
from app.mapping.models import MeterMapping, PriceSelector, Rounding, SnapshotItem
from tests.mapping.stripe_side import item, meter, price

NOTHING = Mappings({}, {})
BY_MAX = "the price has aggregate_usage max, the meter aggregates by SUM, which needs sum"


def mappings(*split: MeterMapping) -> Mappings:
    return Mappings({split[0].meter: split}, {})


def checked(
    mapping: MeterMapping,
    aggregation: str | None,
    items: Sequence[SnapshotItem],
    *,
    before: Mappings = NOTHING,
) -> Fit:
    known = {} if aggregation is None else {mapping.meter: aggregation}
    return fit(before, mappings(mapping), Seen(known, items))


TOKENS = meter()
WHOLE = replace(meter(), whole_period=True)
FITTING = [
    (TOKENS, "SUM", "sum"),
    (TOKENS, "COUNT", "sum"),
    (TOKENS, "MAX", "max"),
    (TOKENS, "LATEST", "last_ever"),
    (WHOLE, "AVG", "sum"),
    (WHOLE, "UNIQUE_COUNT", "max"),
]


@pytest.mark.parametrize(("mapping", "aggregation", "aggregate_usage"), FITTING)
def test_what_fits_is_not_mentioned(
    mapping: MeterMapping, aggregation: str, aggregate_usage: str
) -> None:
    assert checked(mapping, aggregation, [item(aggregate_usage=aggregate_usage)]) == Fit((), ())


MISFITS = [
    ("SUM", "max", "needs sum"),
    ("MAX", "sum", "needs max"),
    ("LATEST", "sum", "needs last_during_period or last_ever"),
    ("AVG", "sum", "needs whole_period: true"),
]


@pytest.mark.parametrize(("aggregation", "aggregate_usage", "needs"), MISFITS)
def test_what_does_not_fit_is_refused_with_both_values(
    aggregation: str, aggregate_usage: str, needs: str
) -> None:
    found = checked(TOKENS, aggregation, [item(aggregate_usage=aggregate_usage)])
    (fault,) = found.faults
    assert fault.path == "meter tokens"
    for part in ("price_1: ", f"aggregate_usage {aggregate_usage}", aggregation, needs):
        assert part in fault.message
    assert found.notes == ()


def test_each_price_that_the_mapping_names_is_looked_at() -> None:
    either = meter(selector=price("price_1", "price_2", "price_3"))
    items = [
        item("si_3", price_id="price_3", aggregate_usage="max"),
        item("si_2", price_id="price_2", aggregate_usage="last_ever"),
        item("si_1"),
        item("si_4", price_id="price_4", aggregate_usage="max"),
    ]
    found = checked(either, "SUM", items)
    assert [fault.message.split(":")[0] for fault in found.faults] == ["price_2", "price_3"]


@pytest.mark.parametrize(
    "selector",
    [
        price("price_1"),
        PriceSelector(lookup_key="tokens"),
        PriceSelector(metadata=(("meter", "tokens"),)),
    ],
)
def test_a_price_is_found_as_booking_finds_it(selector: PriceSelector) -> None:
    held = item(
        lookup_key="tokens", price_metadata=(("a", "b"), ("meter", "tokens")), aggregate_usage="max"
    )
    assert [f.message for f in checked(meter(selector=selector), "SUM", [held]).faults] == [
        f"price_1: {BY_MAX}"
    ]


UNKNOWN = [
    (None, [], "no window of this meter and no subscription with this price has been seen"),
    (None, [item(aggregate_usage="max")], "no window of this meter has been seen"),
    ("SUM", [], "no subscription with this price has been seen"),
    (
        "SUM",
        [item(price_id="price_2", aggregate_usage="max")],
        "no subscription with this price has been seen",
    ),
]


@pytest.mark.parametrize(("aggregation", "items", "missing"), UNKNOWN)
def test_what_is_not_known_is_said_and_not_refused(
    aggregation: str | None, items: list[SnapshotItem], missing: str
) -> None:
    note = MappingNote("tokens", "", f"not checked: {missing}")
    assert checked(TOKENS, aggregation, items) == Fit((), (note,))


def test_what_stands_already_is_told_and_not_refused() -> None:
    """Or a misfit that came to light later would keep every new customer of the file out."""
    by_max = [item(aggregate_usage="max")]
    found = checked(TOKENS, "SUM", by_max, before=mappings(TOKENS))
    assert found == Fit((), (MappingNote("tokens", "", f"price_1: {BY_MAX}; its usage is parked"),))
    assert checked(TOKENS, None, [], before=mappings(TOKENS)) == Fit((), ())
    changed = replace(TOKENS, rounding=Rounding.DOWN)
    assert len(checked(changed, "SUM", by_max, before=mappings(TOKENS)).faults) == 1


def test_of_a_split_meter_each_mapping_is_checked_by_itself() -> None:
    gpt4 = replace(meter(selector=price("price_4")), group_filter=(("model", "gpt-4"),))
    gpt3 = replace(meter(selector=price("price_3")), group_filter=(("model", "gpt-3"),))
    seen = Seen(
        {"tokens": "SUM"}, [item(), item("si_4", price_id="price_4", aggregate_usage="max")]
    )
    found = fit(NOTHING, mappings(TOKENS, gpt3, gpt4), seen)
    assert [fault.path for fault in found.faults] == ["meter tokens (model=gpt-4)"]
    assert [(note.meter, note.groups) for note in found.notes] == [("tokens", "model=gpt-3")]


def test_a_whole_period_needs_somebody_to_ask() -> None:
    gpt4 = replace(WHOLE, group_filter=(("model", "gpt-4"),))
    wanted = mappings(TOKENS, gpt4)
    (note,) = whole_periods(wanted, openmeter_api=False)
    assert (note.meter, note.groups) == ("tokens", "model=gpt-4")
    assert "OPENMETER_API_URL" in note.message
    assert list(whole_periods(wanted, openmeter_api=True)) == []
    assert list(whole_periods(mappings(TOKENS), openmeter_api=False)) == []
