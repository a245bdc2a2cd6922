"""Placing: pending windows -> the changes they make to usage records. Pure.

A window that stands on a record stays there: a revision changes that record. Any other window goes
where resolving puts it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from fractions import Fraction

from app.ledger.booking import Change, Totals, book
from app.ledger.quantity import amount
from app.ledger.records import ItemPeriod, RecordKey, UsageRecord
from app.ledger.windows import PendingWindow

# However often a record changes, it waits no longer than this many lingers in all.
LINGER_AT_MOST = 10
# A record in Stripe's future is refused; clocks differ a little.
FUTURE_MARGIN = timedelta(seconds=2)


@dataclass(frozen=True, slots=True)
class Placed:
    """A pending window and the record it belongs on."""

    window: PendingWindow
    key: RecordKey
    item_period_id: int
    scale: Fraction

    @property
    def amount(self) -> Fraction:
        """Units of the window now."""
        return amount(self.window.value, self.scale)


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
) -> Rewritten:
    """Book windows on the records of one item period; only records that changed are returned."""
    ordered = sorted(placed, key=lambda p: (p.key.timestamp, p.window.id))
    held = {record.key.timestamp: record for record in records}
    booked = book(
        Totals(period.exact, period.rounded),
        {timestamp: record.wanted for timestamp, record in held.items()},
        [Change(p.key.timestamp, p.amount - p.window.amount) for p in ordered],
        period.rounding,
    )
    behind = _newest_by_record(ordered)
    newest = max(behind.values())
    changed = [
        _changed(held[timestamp], wanted, behind.get(timestamp, newest)[1], now=now, linger=linger)
        for timestamp, wanted in booked.wanted.items()
        if wanted != held[timestamp].wanted
    ]
    after = replace(period, exact=booked.totals.exact, rounded=booked.totals.rounded)
    return Rewritten(after, changed, booked.missing)


def _newest_by_record(placed: Iterable[Placed]) -> Mapping[int, tuple[datetime, str]]:
    """The newest delivery behind each record's change: it names the change in the key."""
    newest: dict[int, tuple[datetime, str]] = {}
    for p in placed:
        order = (p.window.message_at, p.window.svix_id)
        newest[p.key.timestamp] = max(order, newest.get(p.key.timestamp, order))
    return newest


def _changed(
    record: UsageRecord, wanted: int, svix_id: str, *, now: datetime, linger: timedelta
) -> UsageRecord:
    """The record with another wanted quantity: another revision, and due unless it is held."""
    equal = wanted == record.reported and not record.unsettled and not record.doubtful
    inside = datetime.fromtimestamp(record.key.timestamp, now.tzinfo) + FUTURE_MARGIN
    since = None if equal else record.unsent_since or max(now, inside)
    # What is held stays held, unless there is nothing left to send.
    state = "reported" if equal else "held" if record.state == "held" else "due"
    due_at = None
    if since is not None and state == "due":
        due_at = max(min(now + linger, since + LINGER_AT_MOST * linger), inside)
    return UsageRecord(
        record.id,
        record.key,
        record.item_period_id,
        wanted,
        record.reported,
        record.revision + 1,
        svix_id,
        state,
        due_at,
        since,
        failures=0,
        key_suffix=record.key_suffix,
        unsettled=record.unsettled,
        doubtful=record.doubtful,
    )
