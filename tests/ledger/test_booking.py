"""Booking: whatever happens to the amounts, the quantities add up to the rounded total."""

from collections import defaultdict
from collections.abc import Sequence
from fractions import Fraction
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.ledger.booking import Booked, Change, Totals, book
from app.ledger.quantity import round_total
from app.mapping.models import Rounding

roundings = st.sampled_from(list(Rounding))
# Few records and small numbers: what matters are collisions, ties and signs.
timestamps = st.integers(1, 6)
amounts = st.builds(Fraction, st.integers(-60, 60), st.sampled_from([1, 2, 3, 10]))
changes = st.lists(st.builds(Change, timestamps, amounts), max_size=25)


def book_all(batches: Sequence[Sequence[Change]], rounding: Rounding) -> Booked:
    """Book batch after batch, as the booker does: all records given where some were missing."""
    totals, standing = Totals(), dict[int, int]()
    for batch in batches:
        given_records = {c.timestamp: standing.get(c.timestamp, 0) for c in batch}
        booked = book(totals, given_records, batch, rounding)
        if booked.missing:
            booked = book(totals, standing | given_records, batch, rounding)
        assert booked.missing == 0
        totals = booked.totals
        standing |= booked.wanted
    return Booked(totals, standing, 0)


@given(changes, roundings)
def test_quantities_add_up_to_the_rounded_total_and_none_is_negative(
    made: list[Change], rounding: Rounding
) -> None:
    booked = book(Totals(), {}, made, rounding)
    exact = sum((change.amount for change in made), Fraction(0))
    assert booked.totals == Totals(exact, round_total(exact, rounding))
    assert sum(booked.wanted.values()) == booked.totals.rounded
    assert all(quantity >= 0 for quantity in booked.wanted.values())
    assert booked.missing == 0


@given(st.lists(changes, max_size=6), roundings)
def test_batches_that_know_only_the_records_they_touch_come_to_the_same_sums(
    batches: list[list[Change]], rounding: Rounding
) -> None:
    booked = book_all(batches, rounding)
    exact = sum((change.amount for batch in batches for change in batch), Fraction(0))
    assert booked.totals.exact == exact
    assert sum(booked.wanted.values()) == booked.totals.rounded == round_total(exact, rounding)
    assert all(quantity >= 0 for quantity in booked.wanted.values())


@given(changes, roundings, st.randoms(use_true_random=False))
def test_the_sum_does_not_depend_on_the_order(
    made: list[Change], rounding: Rounding, random: Random
) -> None:
    shuffled = list(made)
    random.shuffle(shuffled)
    assert (
        book(Totals(), {}, made, rounding).totals == book(Totals(), {}, shuffled, rounding).totals
    )


# (record, window) -> its values, oldest first: revisions of whole, non-negative windows.
whole_windows = st.dictionaries(
    st.tuples(timestamps, st.integers(1, 3)),
    st.lists(st.integers(0, 50), min_size=1, max_size=4),
    max_size=10,
)


@given(whole_windows, roundings, st.randoms(use_true_random=False))
def test_with_whole_amounts_each_record_is_the_sum_of_its_own_windows(
    windows: dict[tuple[int, int], list[int]], rounding: Rounding, random: Random
) -> None:
    steps = [key for key, values in windows.items() for _ in values]
    random.shuffle(steps)
    told: dict[tuple[int, int], int] = defaultdict(int)
    standing: dict[tuple[int, int], int] = defaultdict(int)
    made = []
    for key in steps:
        value = windows[key][told[key]]
        made.append(Change(key[0], Fraction(value - standing[key])))
        told[key] += 1
        standing[key] = value
    own: dict[int, int] = defaultdict(int)
    for (timestamp, _), value in standing.items():
        own[timestamp] += value
    assert book_all([[change] for change in made], rounding).wanted == own


@given(
    st.dictionaries(timestamps, st.integers(0, 20), min_size=1),
    st.lists(st.builds(Change, timestamps, amounts), min_size=1, max_size=4),
    roundings,
)
def test_only_touched_records_change_unless_one_would_fall_below_zero(
    standing: dict[int, int], made: list[Change], rounding: Rounding
) -> None:
    totals = Totals(Fraction(sum(standing.values())), sum(standing.values()))
    touched = {change.timestamp for change in made}
    alone = book(totals, {t: standing.get(t, 0) for t in touched}, made, rounding)
    among_all = book(totals, standing, made, rounding)
    if alone.missing == 0:
        untouched = {t: q for t, q in standing.items() if t not in touched}
        assert all(alone.wanted[t] >= 0 for t in touched)
        assert sum(alone.wanted.values()) + sum(untouched.values()) == alone.totals.rounded
    assert set(among_all.wanted) == set(standing) | touched
    assert among_all.totals == alone.totals


def test_a_fraction_is_carried_to_the_next_record() -> None:
    made = [Change(at, Fraction(2, 5)) for at in (1, 2, 3)]
    assert book(Totals(), {}, made, Rounding.HALF_UP).wanted == {1: 0, 2: 1, 3: 0}


def test_what_a_record_lacks_is_taken_from_the_newest_first() -> None:
    totals = Totals(Fraction(9), 9)
    booked = book(totals, {1: 3, 2: 3, 3: 2, 4: 1}, [Change(1, Fraction(-5))], Rounding.HALF_UP)
    assert booked.wanted == {1: 0, 2: 3, 3: 1, 4: 0}


@pytest.mark.parametrize(
    ("known", "missing"), [({1: 1}, 3), ({1: 1, 2: 2}, 1), ({1: 1, 2: 2, 3: 5}, 0)]
)
def test_what_cannot_be_taken_from_the_given_records_is_told(
    known: dict[int, int], missing: int
) -> None:
    booked = book(Totals(Fraction(8), 8), known, [Change(1, Fraction(-4))], Rounding.DOWN)
    assert booked.missing == missing
    assert booked.totals == Totals(Fraction(4), 4)


def test_a_total_below_zero_bills_nothing_and_is_made_up_for_before_anything_is_billed() -> None:
    below = book(Totals(), {}, [Change(1, Fraction(3)), Change(2, Fraction(-10))], Rounding.UP)
    assert (below.totals, below.wanted) == (Totals(Fraction(-7), 0), {1: 0, 2: 0})
    above = book(below.totals, below.wanted, [Change(3, Fraction(9))], Rounding.UP)
    assert (above.totals, above.wanted) == (Totals(Fraction(2), 2), {1: 0, 2: 0, 3: 2})
