"""What a change of the mappings moves: spans, prices, and where usage that stands belongs now."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.mapping.models import (
    LatePolicy,
    MeterMapping,
    PriceSelector,
    RecordPer,
    Rounding,
    SubjectMapping,
    TimestampRule,
)
from app.mapping.moving import (
    Moves,
    Obstacle,
    PlaceOfUsage,
    Span,
    StandingUsage,
    changed_spans,
    decide,
    prices_changed,
)
from tests.mapping.stripe_side import PERIOD_END, PERIOD_START, item, meter, price, snapshot, span

MAY, JUNE, JULY = (datetime(2026, month, 1, tzinfo=UTC) for month in (5, 6, 7))

SPANS: list[tuple[str, list[SubjectMapping], list[SubjectMapping], list[Span]]] = [
    ("nothing", [span()], [span()], []),
    ("for ever", [span()], [span("sub_2")], [Span(None, None)]),
    (
        "closed, and another opened",
        [span()],
        [span(valid_to=JUNE), span("sub_2", JUNE)],
        [Span(JUNE, None)],
    ),
    ("divided in name only", [span()], [span(valid_to=JUNE), span(valid_from=JUNE)], []),
    ("ended", [span()], [span(valid_to=JUNE)], [Span(JUNE, None)]),
    ("begun earlier", [span(valid_from=JUNE)], [span(valid_from=MAY)], [Span(MAY, JUNE)]),
    (
        "a month in the middle",
        [span()],
        [span(valid_to=MAY), span("sub_2", MAY, JUNE), span(valid_from=JUNE)],
        [Span(MAY, JUNE)],
    ),
    (
        "the day of the upgrade moved",
        [span(valid_to=JULY), span("sub_2", JULY)],
        [span(valid_to=JUNE), span("sub_2", JUNE)],
        [Span(JUNE, JULY)],
    ),
]


@pytest.mark.parametrize(
    ("before", "after", "changed"), [case[1:] for case in SPANS], ids=[case[0] for case in SPANS]
)
def test_spans_in_which_another_subscription_pays(
    before: list[SubjectMapping], after: list[SubjectMapping], changed: list[Span]
) -> None:
    assert list(changed_spans(before, after)) == changed


days = st.integers(0, 12)


@st.composite
def timelines(draw: st.DrawFn) -> list[SubjectMapping]:
    """Spans of a subject that do not overlap, in order."""
    bounds = sorted(draw(st.sets(days, min_size=2, max_size=6)))
    made = []
    for start, end in pairwise(bounds):
        name = draw(st.sampled_from(["", "sub_1", "sub_2"]))
        if name:
            made.append(span(name, MAY + timedelta(start), MAY + timedelta(end)))
    return made


@given(timelines(), timelines(), st.integers(-1, 13))
def test_a_moment_is_in_a_changed_span_if_and_only_if_another_one_pays(
    before: list[SubjectMapping], after: list[SubjectMapping], day: int
) -> None:
    at = MAY + timedelta(day)

    def payer(mappings: list[SubjectMapping]) -> str | None:
        return next((m.subscription for m in mappings if m.covers(at)), None)

    inside = [
        s
        for s in changed_spans(before, after)
        if (s.start is None or s.start <= at) and (s.end is None or at < s.end)
    ]
    assert len(inside) == (payer(before) != payer(after))


GPT_4 = (("model", "gpt-4"),)
PRICES: list[tuple[str, list[MeterMapping], list[MeterMapping], bool]] = [
    ("the same", [meter()], [meter()], False),
    ("another price", [meter()], [meter(selector=price("price_2"))], True),
    ("one more price", [meter()], [meter(selector=price("price_1", "price_2"))], False),
    ("one price less", [meter(selector=price("price_1", "price_2"))], [meter()], True),
    (
        "by another name",
        [meter()],
        [meter(selector=PriceSelector(lookup_key="tokens"))],
        True,
    ),
    ("split", [meter()], [meter(), meter(group_filter=GPT_4)], True),
    (
        "all that only future windows heed",
        [meter()],
        [
            meter(
                scale=Fraction(1, 1000),
                rounding=Rounding.UP,
                rule=TimestampRule.WINDOW_END,
                record_per=RecordPer.DAY,
                late_policy=LatePolicy.HOLD,
            )
        ],
        False,
    ),
]


@pytest.mark.parametrize(
    ("before", "after", "changed"), [case[1:] for case in PRICES], ids=[case[0] for case in PRICES]
)
def test_whether_a_price_changes(
    before: list[MeterMapping], after: list[MeterMapping], changed: bool
) -> None:
    assert prices_changed(before, after) is changed


STANDS = StandingUsage(
    "tokens",
    (),
    "sub_1",
    "si_1",
    PERIOD_START,
    PERIOD_END,
    respanned=True,
    to_subscription="sub_2",
    windows=3,
    amount=Fraction(7, 2),
    at_stripe=3,
)
PRICED = replace(STANDS, respanned=False, to_subscription="sub_1")
SHOWN = {"sub_1": snapshot(item(), item("si_2", price_id="price_2"))}
SPLIT = [meter(selector=price("price_2"), group_filter=GPT_4), meter()]


def decided(
    *usage: StandingUsage,
    before: list[MeterMapping] | None = None,
    after: list[MeterMapping] | None = None,
    snapshots: dict[str, Any] = SHOWN,
) -> tuple[Moves, frozenset[PlaceOfUsage]]:
    stood = before or [meter()]
    return decide(
        usage, before={"tokens": stood}, after={"tokens": after or stood}, snapshots=snapshots
    )


def test_usage_moves_to_the_subscription_that_pays_now() -> None:
    moves, places = decided(STANDS)
    (move,) = moves.moves
    assert (move.subscription_item, move.to_subscription, move.to_price) == (
        "si_1",
        "sub_2",
        "price price_1",
    )
    assert (move.windows, move.amount, move.at_stripe, move.obstacle) == (
        3,
        Fraction(7, 2),
        3,
        None,
    )
    assert places == {PlaceOfUsage("tokens", (), "si_1", "sub_2")}
    assert moves.stays == ()


def test_usage_that_is_there_already_does_not_move() -> None:
    assert decided(replace(STANDS, to_subscription="sub_1")) == (Moves(), frozenset())


@pytest.mark.parametrize(
    ("usage", "after", "why"),
    [
        (replace(STANDS, to_subscription=None), None, "no mapping of their subject"),
        (STANDS, [meter(group_filter=GPT_4)], "no mapping of their meter"),
        (replace(STANDS, whole_period=True), None, "whole period"),
        (replace(STANDS, parked=True), None, "is parked"),
    ],
)
def test_usage_that_stays_although_its_place_is_another_one(
    usage: StandingUsage, after: list[MeterMapping] | None, why: str
) -> None:
    moves, places = decided(usage, after=after)
    (stay,) = moves.stays
    assert why in stay.why
    assert stay.windows == 3
    assert (moves.moves, places) == ((), frozenset())


@pytest.mark.parametrize(
    ("after", "moves"),
    [
        ([meter(selector=price("price_2"))], True),
        ([meter(selector=price("price_1", "price_2"))], False),
        ([meter(selector=price("price_3"))], True),  # it waits on si_1 until there is one
        ([meter(selector=PriceSelector(metadata=()))], True),
        (SPLIT, False),
        ([meter(scale=Fraction(1, 2))], False),
    ],
)
def test_usage_moves_where_its_price_is_another_item(
    after: list[MeterMapping], moves: bool
) -> None:
    found, _ = decided(PRICED, after=after)
    assert bool(found.moves) is moves


def test_the_same_item_under_another_name_is_no_other_place() -> None:
    shown = {"sub_1": snapshot(item(lookup_key="tokens"))}
    renamed = [meter(selector=PriceSelector(lookup_key="tokens"))]
    assert decided(PRICED, after=renamed, snapshots=shown) == (Moves(), frozenset())
    assert decided(PRICED, after=renamed, snapshots={})[0].moves != ()


def test_an_item_that_took_anothers_place_is_no_other_place() -> None:
    """The old item's usage was billed there: a change of the scale must not bill it again."""
    shown = {"sub_1": snapshot(item("si_9"))}
    assert decided(PRICED, after=[meter(scale=Fraction(2))], snapshots=shown)[0] == Moves()


def test_a_split_moves_the_groups_that_it_names() -> None:
    grouped = replace(PRICED, groups=GPT_4)
    moves, places = decided(PRICED, grouped, after=SPLIT)
    assert [move.to_price for move in moves.moves] == ["price price_2"]
    assert places == {PlaceOfUsage("tokens", GPT_4, "si_1", "sub_1")}


@pytest.mark.parametrize(
    ("usage", "snapshots", "obstacle"),
    [
        (STANDS, {}, None),
        (STANDS, SHOWN, None),
        (STANDS, {"sub_1": snapshot(item("si_9"))}, Obstacle.ITEM_GONE),
        (STANDS, {"sub_1": snapshot(status="canceled")}, Obstacle.ITEM_GONE),
        (replace(STANDS, at_stripe=0), {"sub_1": snapshot(status="canceled")}, None),
        (
            replace(STANDS, obstacle=Obstacle.PERIOD_CLOSED),
            {"sub_1": snapshot(status="canceled")},
            Obstacle.PERIOD_CLOSED,
        ),
    ],
)
def test_what_cannot_come_down(
    usage: StandingUsage, snapshots: dict[str, Any], obstacle: Obstacle | None
) -> None:
    moves, _ = decided(usage, snapshots=snapshots)
    assert [move.obstacle for move in moves.moves] == [obstacle]
    assert len(moves.obstructed) == (obstacle is not None)


def test_usage_that_goes_the_same_way_is_told_together() -> None:
    later = replace(STANDS, period_start=PERIOD_END, period_end=PERIOD_END + timedelta(30))
    other = replace(STANDS, groups=GPT_4, windows=1, amount=Fraction(1, 2), at_stripe=0)
    closed = replace(STANDS, obstacle=Obstacle.PERIOD_CLOSED)
    moves, _ = decided(later, STANDS, closed, other)
    assert [(m.period_start, m.windows, m.amount, m.at_stripe) for m in moves.moves] == [
        (PERIOD_START, 4, Fraction(4), 3),
        (PERIOD_START, 3, Fraction(7, 2), 3),
        (PERIOD_END, 3, Fraction(7, 2), 3),
    ]
    assert moves.windows == 10
