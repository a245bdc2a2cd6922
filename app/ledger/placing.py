"""Placing: pending windows -> the changes they make to usage records. Pure.

A window that stands on a record stays there: a revision changes that record. Any other window goes
where resolving puts it.

Where the price adds up, the rounding is that of the period's running total (see `booking`). Under
`max` and `latest` every record is the rounded maximum, or the newest, of its own windows.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Final

from app.ledger.booking import Change, Totals, book
from app.ledger.periods import ItemPeriod
from app.ledger.quantity import NOTHING, amount, round_total
from app.ledger.records import RecordKey, UsageRecord
from app.ledger.windows import PendingWindow
from app.mapping.models import Combination

# However often a record changes, it waits no longer than this many lingers in all.
LINGER_AT_MOST = 10
# A record in Stripe's future is refused; clocks differ a little.
FUTURE_MARGIN = timedelta(seconds=2)
# Held for these because of the period alone: whatever changes there is looked at anew.
LOOKED_AT_ANEW: Final = frozenset({"period_closed", "credit_due"})


@dataclass(frozen=True, slots=True)
class Placed:
    """A pending window and the record it belongs on. `gone`: it counts there no more."""

    window: PendingWindow
    key: RecordKey
    item_period_id: int
    scale: Fraction
    gone: bool = False
    # Units of the window now.
    amount: Fraction = field(init=False)

    def __post_init__(self) -> None:
        units = NOTHING if self.gone else amount(self.window.value, self.scale)
        object.__setattr__(self, "amount", units)

    @property
    def change(self) -> Fraction:
        """By how much it counts more (or less) than before."""
        before = self.window.amount
        return self.amount - before if before else self.amount


@dataclass(frozen=True, slots=True)
class Standing:
    """What a window that is not in hand has on a record: `window_end` says which is the newest."""

    window_id: int
    timestamp: int
    window_end: datetime
    amount: Fraction


@dataclass(frozen=True, slots=True)
class Rewritten:
    """One item period and its records after the changes. `missing`: give all records."""

    period: ItemPeriod
    records: list[UsageRecord]
    missing: int


def rewrite(
    period: ItemPeriod,
    records: Iterable[UsageRecord],
    placed: Iterable[Placed],
    *,
    now: datetime,
    linger: timedelta,
    beside: Collection[Standing] = (),
) -> Rewritten:
    """Book windows on the records of one item period; only records that changed are returned.

    `beside`: the other windows on these records, which `max` and `latest` need.
    """
    ordered = sorted(placed, key=lambda p: (p.key.timestamp, p.window.id))
    held = {record.key.timestamp: record for record in records}
    if period.combination is Combination.SUM:
        booked = book(
            Totals(period.exact, period.rounded),
            {timestamp: record.booked for timestamp, record in held.items()},
            [Change(p.key.timestamp, p.change) for p in ordered],
            period.rounding,
        )
        after = replace(period, exact=booked.totals.exact, rounded=booked.totals.rounded)
        quantities, missing = booked.wanted, booked.missing
    else:
        after, missing = period, 0
        quantities = _each_by_itself(period, ordered, beside)
    behind = _newest_by_record(ordered)
    newest = max(behind.values())
    # Under `latest` a zero says something: without it, what came before would be the newest. But
    # where no window is left on a record, there is nothing to be said.
    latest = period.combination is Combination.LATEST
    zeros = _with_windows(ordered, beside) if latest else frozenset()
    changed = [
        changed_record(
            held[timestamp],
            quantity + held[timestamp].carried,
            behind.get(timestamp, newest)[1],
            closed=period.is_closed_at(timestamp),
            now=now,
            linger=linger,
            zero_counts=timestamp in zeros,
        )
        for timestamp, quantity in quantities.items()
        if quantity != held[timestamp].booked
        or (latest and (held[timestamp].revision == 0 or timestamp not in zeros))
    ]
    return Rewritten(after, changed, missing)


def _with_windows(placed: Collection[Placed], beside: Iterable[Standing]) -> frozenset[int]:
    """The records on which some window counts, by their timestamps."""
    gone = {p.window.id for p in placed if p.gone}
    counting = {p.key.timestamp for p in placed if not p.gone}
    return frozenset(counting | {w.timestamp for w in beside if w.window_id not in gone})


def _each_by_itself(
    period: ItemPeriod, placed: Sequence[Placed], beside: Iterable[Standing]
) -> dict[int, int]:
    """The quantity of each record that a window in hand stands on."""
    on: dict[int, dict[int, Standing]] = defaultdict(dict)
    for other in beside:
        on[other.timestamp][other.window_id] = other
    for p in placed:
        window = p.window
        if p.gone:
            on[p.key.timestamp].pop(window.id, None)
            continue
        on[p.key.timestamp][window.id] = Standing(
            window.id, p.key.timestamp, window.facts.window_end, p.amount
        )
    return {
        timestamp: round_total(_combined(period.combination, windows.values()), period.rounding)
        for timestamp, windows in on.items()
        if any(p.key.timestamp == timestamp for p in placed)
    }


def _combined(combination: Combination, windows: Collection[Standing]) -> Fraction:
    if not windows:
        return Fraction(0)
    if combination is Combination.MAX:
        return max(window.amount for window in windows)
    return max(windows, key=lambda window: (window.window_end, window.window_id)).amount


def _newest_by_record(placed: Iterable[Placed]) -> Mapping[int, tuple[datetime, str]]:
    """The newest delivery behind each record's change: it names the change in the key."""
    newest: dict[int, tuple[datetime, str]] = {}
    for p in placed:
        order = (p.window.message_at, p.window.svix_id)
        newest[p.key.timestamp] = max(order, newest.get(p.key.timestamp, order))
    return newest


def changed_record(
    record: UsageRecord,
    wanted: int,
    svix_id: str,
    *,
    closed: bool,
    now: datetime,
    linger: timedelta,
    zero_counts: bool = False,
) -> UsageRecord:
    """The record with another wanted quantity: another revision, and due unless it is held.

    In a closed period it is not sent any more, but late: its difference is carried or held.
    `zero_counts`: a record that was never sent does not stand for zero.
    """
    equal = wanted == record.reported and not record.unsettled and not record.doubtful
    if zero_counts and (record.revision == 0 or record.unsent_since is not None):
        equal = False
    inside = datetime.fromtimestamp(record.key.timestamp, now.tzinfo) + FUTURE_MARGIN
    since = None if equal else record.unsent_since or max(now, inside)
    state = "reported" if equal else _state(record, closed=closed)
    due_at = None
    if since is not None and state == "due":
        due_at = max(min(now + linger, since + LINGER_AT_MOST * linger), inside)
    elif state == "late":
        due_at = now
    return record._replace(
        wanted=wanted,
        revision=record.revision + 1,
        svix_id=svix_id,
        state=state,
        due_at=due_at,
        unsent_since=since,
        failures=0,
    )


def _state(record: UsageRecord, *, closed: bool) -> str:
    """What is held stays held, unless only its period was the reason."""
    held = record.state == "held"
    if held and not (closed and record.reason in LOOKED_AT_ANEW):
        return "held"
    # An answer that is outstanding is asked for first: only then it is known what stands there.
    return "late" if closed and not record.unsettled else "due"
