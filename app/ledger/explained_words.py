"""An explanation in plain words, for people who know the customer and not the program. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from app.dispatch.reasons import hold_action_of
from app.ledger.explained import ExplainedPeriod, PeriodHead, SubjectDay, Unsettled, Waiting
from app.mapping.reasons import action_of as park_action_of
from app.mapping.standing import MOVING
from app.mapping.units import exact_text

SOURCES: Final[Mapping[str, str]] = {
    "webhook": "told by a webhook",
    "part": "one part of a window that lies in two billing periods, asked from OpenMeter",
    "flush": "asked from OpenMeter shortly before the period ended; provisional",
    "period": "asked from OpenMeter for the whole period",
}
_LATE_ACTION: Final = "It is carried into the current period, or held, by itself."
_PENDING_ACTION: Final = "Nothing: it is booked by itself, some of it after a read from Stripe."
_MOVING_ACTION: Final = (
    "Nothing: the mappings have another place for it, where it is booked by itself when its old "
    "record has come down at Stripe."
)
_COVERED_ACTION: Final = "Nothing: its parts, or the whole period's value, count in its place."


class PeriodStatus(StrEnum):
    """Whether Stripe still takes usage for a period."""

    OPEN = "open"
    ENDED = "ended"  # over by the calendar; Stripe may still take usage for some minutes
    CLOSED = "closed"


class StripeLook(StrEnum):
    """What came of asking Stripe for its summary of a period."""

    READ = "read"
    NOT_ASKED = "not_asked"
    NOT_READABLE = "not_readable"
    NO_SUMMARY = "no_summary"


@dataclass(frozen=True, slots=True)
class StripeSays:
    """What Stripe says now. `comparable`: whether `total` must equal the reported quantity."""

    look: StripeLook
    note: str
    comparable: bool = False
    total: int | None = None
    invoice: str | None = None


def status_of(head: PeriodHead, now: datetime) -> PeriodStatus:
    """Whether the period still takes usage, as far as is known."""
    if head.closed_at is not None:
        return PeriodStatus.CLOSED
    return PeriodStatus.OPEN if now < head.period_end else PeriodStatus.ENDED


def action_of(state: str, reason: str | None) -> str | None:
    """What is to be done about a window or record in a state; None where nothing waits."""
    if state == "late":
        return _LATE_ACTION
    if state == "pending":
        return _MOVING_ACTION if reason == MOVING else _PENDING_ACTION
    if state == "covered":
        return _COVERED_ACTION
    if reason is None or state not in ("parked", "held"):
        return None
    return park_action_of(reason) if state == "parked" else hold_action_of(reason)


def moment(at: datetime) -> str:
    """A time as people write it, in UTC: 1 Mar 2026 00:00; seconds only where there are some."""
    utc = at.astimezone(UTC)
    seconds = f":{utc:%S}" if utc.second else ""
    return f"{utc.day} {utc:%b %Y %H:%M}{seconds}"


def span(start: datetime, end: datetime) -> str:
    """Two times; the day of the second only where it is another one, and no first one where it is
    not known (what lies before all that was ever read of a subscription is one period)."""
    if start.timestamp() <= 0:
        return f"all until {moment(end)}"
    same = start.astimezone(UTC).date() == end.astimezone(UTC).date()
    return f"{moment(start)} to {moment(end).rpartition(' ')[2] if same else moment(end)}"


def counted(number: int, noun: str) -> str:
    """12,345 units."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def period_sentence(period: ExplainedPeriod, says: StripeSays) -> str:
    """What an invoice line comes to, what is missing from it, and what to do."""
    head, totals = period.head, period.totals
    price = head.lookup_key or head.price
    name = f"{price} on {head.subscription}" if price else head.subscription
    bounds = f"{span(head.period_start, head.period_end)} UTC"
    opening = (
        f"{name} ({head.subscription_item}), {bounds}: {counted(totals.wanted, 'unit')} "
        f"{'is' if totals.wanted == 1 else 'are'} wanted, {totals.reported:,} reported, "
        f"{_stripe_part(says)}."
    )
    return " ".join([opening, *_remarks(period, says)])


def _stripe_part(says: StripeSays) -> str:
    if says.look is StripeLook.READ and says.total is not None:
        return f"Stripe says {says.total:,}" + ("" if says.comparable else " (not comparable)")
    return {
        StripeLook.NOT_READABLE: "what Stripe says could not be read",
        StripeLook.NO_SUMMARY: "Stripe shows no summary of this period",
    }.get(says.look, "Stripe was not asked")


def _remarks(period: ExplainedPeriod, says: StripeSays) -> list[str]:
    """Everything that keeps the line from being all there is, else that it is."""
    totals = period.totals
    added_up = period.head.combination not in ("max", "latest")
    missing = [_unsettled(found, added_up=added_up) for found in period.unsettled]
    missing += [_waiting(found) for found in period.waiting_counts]
    if totals.in_doubt:
        missing.append(
            f"Whether Stripe took the last attempt on {counted(totals.in_doubt, 'record')} is not "
            "known yet."
        )
    if says.comparable and says.total is not None and says.total != totals.reported:
        more = says.total - totals.reported
        why = "see whether somebody else writes usage records for this item."
        if totals.in_doubt:
            why = "such an attempt may have counted."
        missing.append(
            f"Stripe says {abs(more):,} {'more' if more > 0 else 'fewer'} than it confirmed: {why}"
        )
    remarks = []
    if totals.carried_out:
        remarks.append(_carried_out(totals.carried_out))
    if totals.carried_in:
        remarks.append(
            f"{counted(totals.carried_in, 'unit')} of earlier periods "
            f"{'is' if totals.carried_in == 1 else 'are'} part of this."
        )
    if totals.exact is not None and totals.exact < 0:
        remarks.append(
            f"The windows add up to {exact_text(totals.exact)}, and Stripe takes nothing below "
            "zero: the rest lowers what comes later in the period."
        )
    if period.head.pruned_at is not None:
        pruned = (
            "Its windows and records are older than RETENTION_DAYS and were deleted on "
            f"{moment(period.head.pruned_at)} UTC: the totals are what is left."
        )
        return [*remarks, *missing, pruned]
    if missing or not totals.records:
        return [*remarks, *missing] or ["Nothing from OpenMeter belongs here."]
    return [*remarks, _all_there(period, says)]


def _carried_out(units: int) -> str:
    if units < 0:
        return f"{counted(-units, 'unit')} too many here came off the current period."
    return (
        f"{counted(units, 'unit')} came after Stripe had closed the period and "
        f"{'is' if units == 1 else 'are'} billed in a later one."
    )


def _all_there(period: ExplainedPeriod, says: StripeSays) -> str:
    if says.comparable and says.total == period.totals.reported:
        return "Everything from OpenMeter is billed."
    return "Everything from OpenMeter is reported to Stripe."


_UNSETTLED: Final[Mapping[str, str]] = {
    "due": "on the way to Stripe",
    "late": "late for their period",
}


def _unsettled(found: Unsettled, *, added_up: bool) -> str:
    """One group of records that Stripe does not hold as they should be."""
    what = counted(found.records, "record")
    if added_up and found.quantity:
        less = " less" if found.quantity < 0 else ""
        what = f"{counted(abs(found.quantity), 'unit')}{less}"
    if found.state != "held":
        action = f" {_LATE_ACTION}" if found.state == "late" else ""
        return f"{what}: {_UNSETTLED.get(found.state, found.state)}.{action}"
    verb = "could not be billed"
    if added_up and found.quantity < 0:
        what, verb = counted(-found.quantity, "unit"), "too many stand at Stripe"
    return (
        f"{what} {verb} ({found.reason}): {action_of('held', found.reason) or 'see its records.'}"
    )


def _waiting(found: Waiting) -> str:
    """One group of windows that are not booked."""
    what = counted(found.windows, "window")
    if not found.certain:
        what += " that may belong here"
    verb = "is" if found.windows == 1 else "are"
    if found.state == "pending" and found.reason == MOVING:
        return f"{what} {verb} on the way to another place, as the mappings say now."
    if found.state == "pending":
        return f"{what} {verb} still to be booked."
    action = action_of(found.state, found.reason)
    return f"{what} {verb} {found.state} ({found.reason}){f': {action}' if action else '.'}"


def day_sentence(found: SubjectDay, shown: int) -> str:
    """What became of a subject's windows of a day."""
    day = f"{found.day.day} {found.day:%b %Y}"
    if not found.windows_in_all:
        return f"{found.subject}, {day} (UTC): OpenMeter told no window that ends on this day."
    on = f" on {counted(found.periods_in_all, 'item period')}" if found.booked else ""
    windows = counted(found.windows_in_all, "window")
    parts = [f"{found.subject}, {day} (UTC): {windows}, {found.booked:,} booked{on}."]
    parts += [_waiting(count) for count in _without_covered(found.aside_counts)]
    covered = sum(count.windows for count in found.aside_counts if count.state == "covered")
    if covered:
        parts.append(f"In place of {counted(covered, 'window')} others count.")
    if shown < found.periods_in_all:
        parts.append(f"{counted(found.periods_in_all - shown, 'item period')} more: ask by item.")
    return " ".join(parts)


def _without_covered(counts: Iterable[Waiting]) -> list[Waiting]:
    return [count for count in counts if count.state != "covered"]
