"""Placing: which records change by some windows, and when they fall due."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction

import pytest

from app.ledger.periods import ItemPeriod
from app.ledger.placing import Placed, rewrite
from app.ledger.records import RecordKey, UsageRecord
from app.ledger.windows import PendingWindow
from app.mapping.models import Rounding
from app.mapping.resolution import WindowFacts

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
AT = int(NOW.timestamp()) - 3600
LINGER = timedelta(seconds=1)


def record(at: int = AT, wanted: int = 0, **members: object) -> UsageRecord:
    whole = UsageRecord(
        id=at,
        key=RecordKey("si_1", at),
        item_period_id=1,
        wanted=wanted,
        reported=0,
        revision=3,
        svix_id="msg_old",
        state="reported" if wanted == 0 else "due",
        due_at=None if wanted == 0 else NOW,
        unsent_since=None if wanted == 0 else NOW,
        failures=2,
        key_suffix=1,
        unsettled=False,
        doubtful=False,
    )
    return whole._replace(**members)  # type: ignore[arg-type]


def placed(
    value: str, at: int = AT, *, booked: Fraction | int = 0, sent: int = 0, number: int = 1
) -> Placed:
    window = PendingWindow(
        number,
        WindowFacts("tokens", "customer-1", "SUM", NOW - timedelta(hours=1), NOW),
        b"",
        Decimal(value),
        1,
        f"msg_{sent}",
        NOW + timedelta(seconds=sent),
        None,
        Fraction(booked),
    )
    return Placed(window, RecordKey("si_1", at), 1, Fraction(1))


def period(exact: Fraction | int = 0, rounded: int = 0) -> ItemPeriod:
    return ItemPeriod(1, Fraction(exact), rounded, Rounding.HALF_UP)


def test_only_records_that_change_are_written() -> None:
    records = [record(AT), record(AT + 1, wanted=4)]
    result = rewrite(
        period(4, 4),
        records,
        [placed("5"), placed("4", AT + 1, booked=4)],
        now=NOW,
        linger=LINGER,
    )
    [changed] = result.records
    assert (changed.key.timestamp, changed.wanted, changed.revision) == (AT, 5, 4)
    assert result.period == period(9, 9)


def test_a_change_names_the_newest_delivery_behind_it() -> None:
    """The name is part of the idempotency key: it must not depend on the order of the windows."""
    windows = [placed("1", sent=5, number=1), placed("2", sent=9, number=2), placed("3", number=3)]
    for order in (windows, windows[::-1]):
        [changed] = rewrite(period(), [record()], order, now=NOW, linger=LINGER).records
        assert (changed.wanted, changed.svix_id) == (6, "msg_9")


def test_a_record_that_gives_names_the_delivery_that_takes() -> None:
    result = rewrite(
        period(8, 8),
        [record(AT, wanted=3), record(AT + 1, wanted=5)],
        [placed("-1", AT, booked=3, sent=7)],
        now=NOW,
        linger=LINGER,
    )
    assert {(r.key.timestamp, r.wanted, r.svix_id) for r in result.records} == {
        (AT, 0, "msg_7"),
        (AT + 1, 4, "msg_7"),
    }


def test_what_is_missing_is_told_so_that_all_records_can_be_given() -> None:
    few = rewrite(
        period(8, 8), [record(AT, wanted=3)], [placed("-1", booked=3)], now=NOW, linger=LINGER
    )
    assert few.missing == 1


def test_a_new_wanted_quantity_has_its_attempts_before_it() -> None:
    [changed] = rewrite(period(), [record()], [placed("1")], now=NOW, linger=LINGER).records
    assert (changed.failures, changed.key_suffix) == (0, 1)


DUE = [
    # how long unsent, second of the record from NOW, due from NOW
    (None, -3600, 1),
    (0, -3600, 1),
    (5, -3600, 1),
    (9.5, -3600, 0.5),
    (60, -3600, -50),
    (None, 0, 2),  # a record of this very second: Stripe's clock may be behind
    (None, 100, 102),
    (60, 100, 102),
]


@pytest.mark.parametrize(("unsent", "second", "due"), DUE)
def test_when_a_changed_record_falls_due(unsent: float | None, second: int, due: float) -> None:
    at = int(NOW.timestamp()) + second
    since = None if unsent is None else NOW - timedelta(seconds=unsent)
    [changed] = rewrite(
        period(),
        [record(at, unsent_since=since)],
        [placed("1", at)],
        now=NOW,
        linger=LINGER,
    ).records
    assert changed.due_at == NOW + timedelta(seconds=due)
    assert changed.state == "due"


@pytest.mark.parametrize(
    ("before", "value", "state"),
    [
        (record(), "1", "due"),
        (record(reported=1), "1", "reported"),
        (record(reported=1, unsettled=True), "1", "due"),
        (record(state="held"), "1", "held"),
        (record(state="held", reported=1), "1", "reported"),
    ],
)
def test_the_state_of_a_changed_record(before: UsageRecord, value: str, state: str) -> None:
    [changed] = rewrite(period(), [before], [placed(value)], now=NOW, linger=LINGER).records
    assert changed.state == state
    assert (changed.due_at is None) is (state != "due")
    assert (changed.unsent_since is None) is (state == "reported")
