"""Resolving: every way in which a window finds its record, or does not."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any

import pytest

from app.mapping.models import (
    Combination,
    LatePolicy,
    MeterMapping,
    PriceSelector,
    RecordPer,
    Rounding,
    SubjectMapping,
    SubscriptionSnapshot,
    TimestampRule,
)
from app.mapping.reasons import ACTIONS, STRIPE_SIDE, ParkReason
from app.mapping.resolution import (
    Booking,
    InParts,
    Late,
    NeedsSnapshot,
    Parked,
    Period,
    Rules,
    Target,
    WholePeriod,
    WindowFacts,
    WindowSource,
)
from app.mapping.resolve import record_timestamp, resolve, settle_late
from tests.mapping.stripe_side import (
    HOUR,
    NOW,
    PERIOD_END,
    PERIOD_START,
    SECOND,
    item,
    meter,
    price,
    snapshot,
    span,
)

WINDOW = WindowFacts(
    "tokens",
    "customer-1",
    "SUM",
    datetime(2026, 3, 10, 10, tzinfo=UTC),
    datetime(2026, 3, 10, 11, tzinfo=UTC),
)
MAX_AGE = timedelta(hours=1)
AGAIN = NOW + timedelta(hours=6)
HOLDING = Rules(MAX_AGE, late_policy=LatePolicy.HOLD)
CARRYING = replace(HOLDING, late_policy=LatePolicy.CARRY_FORWARD)
RULES = HOLDING


def find(
    window: WindowFacts = WINDOW,
    *,
    subjects: Sequence[SubjectMapping] = (span(),),
    mapped: MeterMapping | None = meter(),  # noqa: B008 - a frozen value
    meters: Sequence[MeterMapping] | None = None,
    rules: Rules = RULES,
    known: Sequence[Period] = (),
    snapshots: Mapping[str, SubscriptionSnapshot] | None = None,
    now: datetime = NOW,
    just_read: bool = False,
    **members: Any,
) -> Booking | NeedsSnapshot:
    """Resolve; `members` are those of the one snapshot, `known` the periods with usage."""
    found = resolve(
        window,
        subjects=subjects,
        meters=meters if meters is not None else [mapped] if mapped else [],
        snapshots={"sub_1": snapshot(**members)} if snapshots is None else snapshots,
        rules=rules,
        now=now,
        just_read=just_read,
    )
    return settle_late(window, found, known, rules, now) if isinstance(found, Late) else found


def ending(at: datetime, **members: Any) -> WindowFacts:
    return replace(WINDOW, **{"window_start": at - HOUR, "window_end": at, **members})


def test_a_window_finds_its_record() -> None:
    scaled = meter(scale=Fraction(1, 1000), rounding=Rounding.UP)
    assert find(mapped=scaled) == Target(
        subscription="sub_1",
        subscription_item="si_1",
        period_start=PERIOD_START,
        period_end=PERIOD_END,
        timestamp=int(WINDOW.window_end.timestamp()) - 1,
        scale=Fraction(1, 1000),
        rounding=Rounding.UP,
        late_policy=LatePolicy.HOLD,
    )


PARKED: list[tuple[ParkReason, dict[str, Any], datetime | None]] = [
    (
        ParkReason.SUBJECT_CONTRADICTS,
        {"window": replace(WINDOW, subject_contradicts=True)},
        None,
    ),
    (ParkReason.AGGREGATION_UNSUPPORTED, {"window": replace(WINDOW, aggregation="AVG")}, None),
    (
        ParkReason.AGGREGATION_UNSUPPORTED,
        {"window": replace(WINDOW, aggregation="AVG"), "mapped": meter(whole_period=True)},
        None,
    ),
    (
        ParkReason.AGGREGATION_UNSUPPORTED,
        {
            "window": replace(WINDOW, aggregation="AVG"),
            "rules": replace(HOLDING, queries=True),
            "meters": [meter(whole_period=True), meter(group_filter=(("model", "gpt-4"),))],
        },
        None,
    ),
    (ParkReason.AGGREGATION_MISMATCH, {"window": replace(WINDOW, aggregation="MAX")}, AGAIN),
    (ParkReason.AGGREGATION_MISMATCH, {"window": replace(WINDOW, aggregation="LATEST")}, AGAIN),
    (
        ParkReason.AGGREGATION_MISMATCH,
        {
            "window": replace(WINDOW, aggregation="LATEST"),
            "items": (item(aggregate_usage="max"),),
        },
        AGAIN,
    ),
    (ParkReason.GROUP_UNMATCHED, {"mapped": meter(group_filter=(("model", "gpt-4"),))}, None),
    (ParkReason.AGGREGATION_UNSUPPORTED, {"window": replace(WINDOW, aggregation="UNKNOWN")}, None),
    (ParkReason.AGGREGATION_UNSUPPORTED, {"window": replace(WINDOW, aggregation="")}, None),
    (ParkReason.NO_SUBJECT_MAPPING, {"subjects": ()}, None),
    (
        ParkReason.NO_SUBJECT_MAPPING,
        {"subjects": (span(valid_from=WINDOW.window_end), span(valid_to=PERIOD_START))},
        None,
    ),
    (ParkReason.NO_METER_MAPPING, {"mapped": None}, None),
    (ParkReason.SUBSCRIPTION_NOT_FOUND, {"found": False, "items": ()}, AGAIN),
    (ParkReason.SUBSCRIPTION_ENDED, {"status": "canceled"}, AGAIN),
    (ParkReason.SUBSCRIPTION_ENDED, {"status": "incomplete_expired"}, AGAIN),
    (ParkReason.ITEM_NOT_FOUND, {"items": ()}, AGAIN),
    (ParkReason.ITEM_NOT_FOUND, {"mapped": meter(selector=price("price_2"))}, AGAIN),
    (ParkReason.ITEM_AMBIGUOUS, {"items": (item("si_1"), item("si_2"))}, AGAIN),
    (
        ParkReason.ITEM_AMBIGUOUS,
        {
            "mapped": meter(selector=price("price_1", "price_2")),
            "items": (item("si_1"), item("si_2", price_id="price_2")),
        },
        AGAIN,
    ),
    (ParkReason.PRICE_LICENSED, {"items": (item(usage_type="licensed"),)}, AGAIN),
    (ParkReason.PRICE_LICENSED, {"items": (item(usage_type=None),)}, AGAIN),
    (ParkReason.PRICE_HAS_BILLING_METER, {"items": (item(billing_meter="mtr_1"),)}, AGAIN),
    (ParkReason.AGGREGATION_MISMATCH, {"items": (item(aggregate_usage="max"),)}, AGAIN),
    (ParkReason.AGGREGATION_MISMATCH, {"items": (item(aggregate_usage="last_ever"),)}, AGAIN),
    (ParkReason.AGGREGATION_MISMATCH, {"items": (item(aggregate_usage=None),)}, AGAIN),
    (ParkReason.PERIOD_CLOSED, {"window": ending(PERIOD_START)}, None),
    (
        ParkReason.BEFORE_SUBSCRIPTION,
        {"window": ending(PERIOD_START), "started_at": PERIOD_START, "rules": CARRYING},
        None,
    ),
    (ParkReason.PERIOD_NOT_OPEN, {"window": ending(PERIOD_END + HOUR)}, PERIOD_END + HOUR - SECOND),
]


@pytest.mark.parametrize(("reason", "case", "retry_at"), PARKED)
def test_what_cannot_be_booked_is_parked_under_its_own_reason(
    reason: ParkReason, case: dict[str, Any], retry_at: datetime | None
) -> None:
    found = find(**case)
    assert isinstance(found, Parked)
    assert (found.reason, found.retry_at) == (reason, retry_at)
    assert found.detail


def test_every_reason_is_reached_and_has_an_action() -> None:
    # Not found by resolving: what booking says of a window beside others, or of its own errors.
    reached = {reason for reason, _, _ in PARKED} | {
        ParkReason.BOOKING_FAILED,
        ParkReason.NOT_ACROSS_GROUPS,
        ParkReason.OVERLAPS_WINDOW,
        ParkReason.OLDER_THAN_RETENTION,
        ParkReason.NEEDS_APPROVAL,
        ParkReason.QUERY_UNANSWERED,
    }
    assert reached == set(ParkReason) == set(ACTIONS)
    assert all(ACTIONS.values())


def test_what_lies_at_stripe_is_looked_at_again_by_itself() -> None:
    assert {reason for reason, _, retry_at in PARKED if retry_at is not None} == STRIPE_SIDE


def test_the_first_obstacle_in_the_order_of_resolving_is_told() -> None:
    """A subject without a mapping is told as such even where Stripe's side is wrong as well."""
    suspect = replace(WINDOW, subject_contradicts=True, aggregation="AVG")
    nothing: dict[str, Any] = {"subjects": (), "mapped": None, "snapshots": {}}
    for window, kwargs, reason in [
        (suspect, nothing, ParkReason.SUBJECT_CONTRADICTS),
        (replace(WINDOW, aggregation="AVG"), nothing, ParkReason.AGGREGATION_UNSUPPORTED),
        (WINDOW, nothing, ParkReason.NO_SUBJECT_MAPPING),
        (WINDOW, nothing | {"subjects": (span(),)}, ParkReason.NO_METER_MAPPING),
    ]:
        found = find(window, **kwargs)
        assert isinstance(found, Parked)
        assert found.reason is reason


@pytest.mark.parametrize("status", ["active", "trialing", "past_due", "unpaid", "incomplete"])
def test_subscriptions_that_take_usage_are_booked(status: str) -> None:
    assert isinstance(find(status=status), Target)


@pytest.mark.parametrize("aggregation", ["SUM", "COUNT"])
def test_what_adds_up_is_booked(aggregation: str) -> None:
    assert isinstance(find(replace(WINDOW, aggregation=aggregation)), Target)


BY_NAME = item("si_2", price_id="price_2", lookup_key="tokens", price_metadata=(("a", "1"),))
BY_MORE = replace(BY_NAME, id="si_3", price_metadata=(("a", "1"), ("b", "2")), lookup_key="other")


@pytest.mark.parametrize(
    ("selector", "found"),
    [
        (price("price_9", "price_2"), {"si_2", "si_3"}),
        (PriceSelector(lookup_key="tokens"), {"si_2"}),
        (PriceSelector(lookup_key="nothing"), set()),
        (PriceSelector(metadata=(("a", "1"),)), {"si_2", "si_3"}),
        (PriceSelector(metadata=(("a", "1"), ("b", "2"))), {"si_3"}),
        (PriceSelector(metadata=(("a", "2"),)), set()),
        (PriceSelector(), set()),  # names nothing, so it must not match everything
    ],
)
def test_prices_are_named_by_ids_lookup_key_or_metadata(
    selector: PriceSelector, found: set[str]
) -> None:
    assert {i.id for i in (item(), BY_NAME, BY_MORE) if selector.matches(i)} == found
    assert selector.describe()


VALIDITY = [
    # the mapping that begins or ends here, and whether a window that ends at 11:00 has it
    (span(valid_to=WINDOW.window_end), True),
    (span(valid_to=WINDOW.window_end - SECOND), False),  # exclusive: its last second is outside
    (span(valid_to=WINDOW.window_end - SECOND + timedelta(microseconds=1)), True),
    (span(valid_from=WINDOW.window_end - SECOND), True),  # inclusive
    (span(valid_from=WINDOW.window_end - SECOND + timedelta(microseconds=1)), False),
    (span(valid_from=WINDOW.window_end), False),
]


@pytest.mark.parametrize(("mapping", "valid"), VALIDITY)
def test_a_subjects_mapping_counts_at_the_windows_last_second(
    mapping: SubjectMapping, valid: bool
) -> None:
    assert isinstance(find(subjects=(mapping,)), Target) is valid


def test_windows_of_march_use_marchs_mapping() -> None:
    change = datetime(2026, 3, 10, tzinfo=UTC)
    subjects = (span("sub_old", valid_to=change), span("sub_1", valid_from=change))
    snapshots = {
        name: snapshot(item(f"si_{name}"), name=name) for name in ("sub_old", "sub_1", "sub_2")
    }
    for end, subscription in [(change, "sub_old"), (change + SECOND, "sub_1")]:
        found = find(ending(end), subjects=subjects, snapshots=snapshots)
        assert isinstance(found, Target)
        assert (found.subscription, found.subscription_item) == (
            subscription,
            f"si_{subscription}",
        )


EDGES = [
    # window end, rule, outcome: a timestamp, or the reason
    (PERIOD_END, TimestampRule.INSIDE, int(PERIOD_END.timestamp()) - 1),
    (PERIOD_END, TimestampRule.WINDOW_END, int(PERIOD_END.timestamp())),
    (PERIOD_END + SECOND, TimestampRule.INSIDE, int(PERIOD_END.timestamp())),
    (PERIOD_END + SECOND, TimestampRule.WINDOW_END, ParkReason.PERIOD_NOT_OPEN),
    (PERIOD_END + 2 * SECOND, TimestampRule.INSIDE, ParkReason.PERIOD_NOT_OPEN),
    (PERIOD_START, TimestampRule.INSIDE, ParkReason.PERIOD_CLOSED),
    (PERIOD_START, TimestampRule.WINDOW_END, ParkReason.PERIOD_CLOSED),
    # Stripe's periods exclude their start: this very second belongs to the period before.
    (PERIOD_START + SECOND, TimestampRule.INSIDE, ParkReason.PERIOD_CLOSED),
    (PERIOD_START + SECOND, TimestampRule.WINDOW_END, int(PERIOD_START.timestamp()) + 1),
    (PERIOD_START + 2 * SECOND, TimestampRule.INSIDE, int(PERIOD_START.timestamp()) + 1),
    (PERIOD_START + HOUR, TimestampRule.INSIDE, int(PERIOD_START.timestamp()) + 3599),
]


@pytest.mark.parametrize(("end", "rule", "expected"), EDGES)
def test_the_edges_of_the_period(
    end: datetime, rule: TimestampRule, expected: int | ParkReason
) -> None:
    found = find(ending(end), mapped=meter(rule=rule))
    outcome = found.timestamp if isinstance(found, Target) else None
    if isinstance(found, Parked):
        assert found.reason is expected
    else:
        assert outcome == expected


@pytest.mark.parametrize(
    ("window", "age", "reread"),
    [
        (WINDOW, MAX_AGE, False),
        (WINDOW, MAX_AGE + SECOND, True),
        (ending(PERIOD_START), timedelta(minutes=30), False),
        (ending(PERIOD_START), timedelta(minutes=30, seconds=1), True),
        (ending(PERIOD_END + HOUR), timedelta(seconds=5), False),
        (ending(PERIOD_END + HOUR), timedelta(seconds=6), True),
    ],
)
def test_a_snapshot_that_may_be_overtaken_is_read_anew(
    window: WindowFacts, age: timedelta, reread: bool
) -> None:
    found = find(window, fetched_at=NOW - age)
    assert isinstance(found, NeedsSnapshot) is reread


def test_a_subscription_that_was_never_read_is_read() -> None:
    assert find(snapshots={}) == NeedsSnapshot("sub_1")
    assert find(snapshots={}, just_read=True) == NeedsSnapshot("sub_1")


@pytest.mark.parametrize(
    ("window", "outcome"),
    [
        (WINDOW, Target),
        (ending(PERIOD_START), ParkReason.PERIOD_CLOSED),
        (ending(PERIOD_END + HOUR), ParkReason.PERIOD_NOT_OPEN),
    ],
)
def test_a_snapshot_that_was_read_for_the_window_serves_however_old_it_is(
    window: WindowFacts, outcome: object
) -> None:
    found = find(window, fetched_at=NOW - 2 * MAX_AGE, just_read=True)
    assert (found.reason if isinstance(found, Parked) else type(found)) is outcome


@pytest.mark.parametrize(
    ("overdue", "wait"),
    [
        (timedelta(), timedelta(seconds=15)),
        (timedelta(seconds=20), timedelta(seconds=15)),
        (timedelta(minutes=2), timedelta(minutes=1)),
        (timedelta(days=2), timedelta(days=1)),
    ],
)
def test_the_longer_a_period_is_overdue_the_longer_until_the_next_read(
    overdue: timedelta, wait: timedelta
) -> None:
    late = PERIOD_END + HOUR - SECOND + overdue
    found = find(ending(PERIOD_END + HOUR), fetched_at=late, now=late)
    assert isinstance(found, Parked)
    assert found.retry_at == late + wait


def end(text: str) -> datetime:
    return datetime.fromisoformat(text)


TIMESTAMPS = [
    ("2026-03-10T11:00:00+00:00", 1773140399, 1773140400),
    ("2026-03-10T12:00:00+01:00", 1773140399, 1773140400),
    # a window that ends within a second: its last whole second is that one
    ("2026-03-10T11:00:00.000001+00:00", 1773140400, 1773140401),
    ("2026-03-10T11:00:00.500000+00:00", 1773140400, 1773140401),
    ("2026-03-10T11:00:00.999999+00:00", 1773140400, 1773140401),
    # both sides of a change to summer time in Berlin: an hour of wall clock is missing, no second
    ("2026-03-29T02:00:00+01:00", 1774745999, 1774746000),
    ("2026-03-29T04:00:00+02:00", 1774749599, 1774749600),
    ("1970-01-01T00:00:01+00:00", 0, 1),
    ("2999-12-31T23:59:59.999999+00:00", 32503679999, 32503680000),
]


@pytest.mark.parametrize(("window_end", "inside", "at_end"), TIMESTAMPS)
def test_a_records_second(window_end: str, inside: int, at_end: int) -> None:
    assert record_timestamp(end(window_end), TimestampRule.INSIDE) == inside
    assert record_timestamp(end(window_end), TimestampRule.WINDOW_END) == at_end


PREVIOUS = Period(datetime(2026, 2, 1, tzinfo=UTC), PERIOD_START)
IN_GRACE = PERIOD_START + timedelta(minutes=59)
AFTER_GRACE = PERIOD_START + timedelta(hours=1)
SEEN_BEFORE = item(previous_start=PREVIOUS.start, previous_end=PREVIOUS.end)
LAST_HOUR = ending(PERIOD_START)
LONG_AGO = ending(datetime(2025, 11, 5, tzinfo=UTC))
UNIX = datetime(1970, 1, 1, tzinfo=UTC)

LATE: list[tuple[dict[str, Any], tuple[datetime, bool] | None]] = [
    # what is known, and the start of the period it is booked in, and whether that is closed;
    # None: parked as `period_closed`
    ({"items": (SEEN_BEFORE,), "rules": CARRYING, "now": IN_GRACE}, (PREVIOUS.start, False)),
    ({"items": (SEEN_BEFORE,), "rules": HOLDING, "now": IN_GRACE}, (PREVIOUS.start, False)),
    ({"items": (SEEN_BEFORE,), "rules": CARRYING, "now": AFTER_GRACE}, (PREVIOUS.start, True)),
    ({"items": (SEEN_BEFORE,), "rules": HOLDING, "now": AFTER_GRACE}, None),
    ({"known": [PREVIOUS], "rules": CARRYING, "now": AFTER_GRACE}, (PREVIOUS.start, True)),
    (
        {
            "known": [PREVIOUS],
            "rules": CARRYING,
            "now": AFTER_GRACE,
            "started_at": PERIOD_START - 2 * SECOND,
        },
        (PREVIOUS.start, True),
    ),
    ({"known": [PREVIOUS], "rules": CARRYING, "now": IN_GRACE}, (PREVIOUS.start, False)),
    ({"rules": CARRYING, "now": IN_GRACE}, (UNIX, True)),  # nobody knows its period: not tried
    ({"rules": HOLDING, "now": IN_GRACE}, None),
    ({"window": LONG_AGO, "known": [PREVIOUS], "rules": CARRYING}, (UNIX, True)),
    (
        {"rules": CARRYING, "mapped": meter(late_policy=LatePolicy.HOLD)},
        None,
    ),
    (
        {"rules": HOLDING, "mapped": meter(late_policy=LatePolicy.CARRY_FORWARD)},
        (UNIX, True),
    ),
    (  # a maximum cannot be added to another period's
        {
            "window": replace(LAST_HOUR, aggregation="MAX"),
            "items": (replace(SEEN_BEFORE, aggregate_usage="max"),),
            "rules": CARRYING,
            "now": IN_GRACE,
        },
        None,
    ),
    (  # an anchor that was moved leaves rows that overlap: the younger one counts
        {
            "known": [PREVIOUS, Period(datetime(2026, 2, 20, tzinfo=UTC), PERIOD_START)],
            "rules": CARRYING,
        },
        (datetime(2026, 2, 20, tzinfo=UTC), True),
    ),
]


@pytest.mark.parametrize(("case", "booked"), LATE)
def test_late_usage_is_tried_carried_or_held(
    case: dict[str, Any], booked: tuple[datetime, bool] | None
) -> None:
    now = case.get("now", NOW)
    found = find(**{"window": LAST_HOUR, "fetched_at": now, **case})
    if booked is None:
        assert isinstance(found, Parked)
        assert found.reason is ParkReason.PERIOD_CLOSED
    else:
        assert isinstance(found, Target)
        assert (found.period_start, found.closed_until is not None) == booked
        assert found.closed_until in (None, int(PERIOD_START.timestamp()))
        assert found.timestamp == record_timestamp(
            case.get("window", LAST_HOUR).window_end, TimestampRule.INSIDE
        )


MIDDAY = datetime(2026, 3, 10, 13, 7, 23, tzinfo=UTC)  # a subscription that began at an odd second


@pytest.mark.parametrize(
    ("record_per", "window_end", "expected"),
    [
        (RecordPer.WINDOW, MIDDAY + HOUR, MIDDAY + HOUR - SECOND),
        (RecordPer.HOUR, MIDDAY + HOUR, datetime(2026, 3, 10, 14, tzinfo=UTC)),
        # the bucket began before the period: its record stands at the period's first second
        (RecordPer.HOUR, datetime(2026, 3, 10, 14, tzinfo=UTC), MIDDAY + SECOND),
        (RecordPer.DAY, MIDDAY + HOUR, MIDDAY + SECOND),
        (RecordPer.DAY, MIDDAY + 30 * HOUR, datetime(2026, 3, 11, tzinfo=UTC)),
        # a window that ends with the day is that day's
        (RecordPer.DAY, datetime(2026, 3, 12, tzinfo=UTC), datetime(2026, 3, 11, tzinfo=UTC)),
        (RecordPer.PERIOD, MIDDAY + HOUR, MIDDAY + 2 * SECOND),
        (RecordPer.PERIOD, MIDDAY + 300 * HOUR, MIDDAY + 2 * SECOND),
    ],
)
def test_the_record_of_a_bucket_depends_on_the_bucket_and_the_period_alone(
    record_per: RecordPer, window_end: datetime, expected: datetime
) -> None:
    found = find(
        ending(window_end, window_start=window_end - SECOND),
        mapped=meter(record_per=record_per),
        items=(item(period_start=MIDDAY),),
    )
    assert isinstance(found, Target)
    assert datetime.fromtimestamp(found.timestamp, UTC) == expected


def test_in_a_period_that_is_not_known_a_window_keeps_its_own_second() -> None:
    """Its bucket might begin in the period before, where a record stands at that second."""
    found = find(LONG_AGO, mapped=meter(record_per=RecordPer.DAY), known=[PREVIOUS], rules=CARRYING)
    assert isinstance(found, Target)
    assert found.period_start == UNIX
    assert found.timestamp == int(LONG_AGO.window_end.timestamp()) - 1


def test_under_latest_every_window_has_a_record_of_its_own() -> None:
    """The newest by timestamp counts: a bucket's record would stand before it."""
    found = find(
        replace(WINDOW, aggregation="LATEST"),
        mapped=meter(record_per=RecordPer.DAY),
        items=(item(aggregate_usage="last_ever"),),
    )
    assert isinstance(found, Target)
    assert found.timestamp == int(WINDOW.window_end.timestamp()) - 1
    assert found.combination is Combination.LATEST


STRADDLING = ending(PERIOD_START + timedelta(minutes=20))


def test_a_window_over_the_boundary_is_asked_for_in_parts_or_slips() -> None:
    parts = find(STRADDLING, rules=replace(HOLDING, queries=True))
    assert parts == InParts(PERIOD_START)
    whole = find(STRADDLING)
    assert isinstance(whole, Target)
    assert whole.period_start == PERIOD_START
    assert whole.slipped == (STRADDLING.window_start, PERIOD_START)


@pytest.mark.parametrize("start", [PERIOD_START, PERIOD_START + SECOND])
def test_a_window_that_begins_with_the_period_does_not_straddle(start: datetime) -> None:
    window = replace(STRADDLING, window_start=start)
    found = find(window, rules=replace(HOLDING, queries=True))
    assert isinstance(found, Target)
    assert found.slipped is None


def test_a_window_whose_record_is_fixed_is_booked_there() -> None:
    at = int(PERIOD_END.timestamp()) - 180
    window = ending(PERIOD_END, record_at=at, source=WindowSource.FLUSH)
    found = find(window, mapped=meter(record_per=RecordPer.DAY))
    assert isinstance(found, Target)
    assert found.timestamp == at


@pytest.mark.parametrize("aggregation", ["AVG", "MIN", "UNIQUE_COUNT"])
@pytest.mark.parametrize("aggregate_usage", ["sum", "max", "last_during_period", "last_ever"])
def test_a_whole_period_is_asked_for_and_is_one_record(
    aggregation: str, aggregate_usage: str
) -> None:
    model = (("model", "gpt-4"),)
    known: dict[str, Any] = {
        "mapped": meter(whole_period=True, group_filter=model),
        "rules": replace(HOLDING, queries=True),
        "items": (item(aggregate_usage=aggregate_usage),),
    }
    window = replace(WINDOW, aggregation=aggregation, group_by=model)
    asked = find(window, **known)
    assert isinstance(asked, WholePeriod)
    assert (asked.asked, asked.group_filter) == (Period(PERIOD_START, PERIOD_END), model)
    assert asked.target.timestamp == int(PERIOD_START.timestamp()) + 2
    whole = replace(
        window,
        source=WindowSource.PERIOD,
        window_start=PERIOD_START,
        window_end=PERIOD_END,
        record_at=asked.target.timestamp,
    )
    assert find(whole, **known) == asked


def test_a_split_meter_bills_each_group_by_its_own_price() -> None:
    meters = [
        meter(selector=price("price_gpt4"), group_filter=(("model", "gpt-4"),)),
        meter(selector=price("price_rest")),
    ]
    items = (item("si_4", price_id="price_gpt4"), item("si_0", price_id="price_rest"))
    for groups, expected in [
        ((("model", "gpt-4"), ("region", "eu")), "si_4"),
        ((("model", "gpt-3"),), "si_0"),
        ((), "si_0"),
    ]:
        found = find(replace(WINDOW, group_by=groups), meters=meters, items=items)
        assert isinstance(found, Target)
        assert found.subscription_item == expected


@pytest.mark.parametrize(
    "members", [{"billing_thresholds": True}, {"items": (item(billing_thresholds=True),)}]
)
def test_with_billing_thresholds_records_are_incremented(members: dict[str, Any]) -> None:
    found = find(**members)
    assert isinstance(found, Target)
    assert found.increment
