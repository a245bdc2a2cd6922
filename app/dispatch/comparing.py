"""Which increments in doubt were executed, told by what Stripe adds up for the period. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from app.stripe_client.answers import UsageRecordSummary

# Beyond this many in doubt on one item only "none" and "all" are told apart: 2^8 sums are quick.
MOST_COMBINED = 8


@dataclass(frozen=True, slots=True)
class OpenRecord:
    """A record of which Stripe may hold something else than the ledger says.

    `difference`: what an increment in doubt would have added; None for anything else that is
    outstanding, which makes a comparison worthless. `attempts`: how many are written down.
    """

    id: int
    timestamp: int
    sent_key: str | None
    difference: int | None
    summed: bool
    attempts: int


@dataclass(frozen=True, slots=True)
class Compared:
    """What a comparison says of records: executed (or not), or in `detail` why it does not tell."""

    executed: dict[int, bool]
    detail: str
    records: tuple[int, ...]


def period_of(timestamp: int, summaries: Iterable[UsageRecordSummary]) -> UsageRecordSummary | None:
    """The summary of the period that holds a second; the start is exclusive, the end inclusive."""
    for summary in summaries:
        after = summary.period_start is None or timestamp > summary.period_start
        until = summary.period_end is None or timestamp <= summary.period_end
        if after and until:
            return summary
    return None


def in_period(timestamp: int, summary: UsageRecordSummary) -> bool:
    """Whether the summary's period holds the second."""
    return period_of(timestamp, [summary]) is not None


def executed_of(missing: int, differences: Mapping[int, int]) -> frozenset[int] | None:
    """The records whose increments add up to what is missing; None unless only one answer fits.

    `differences` are above zero: record id -> units.
    """
    everything = sum(differences.values())
    if missing == 0:
        return frozenset()
    if missing == everything:
        return frozenset(differences)
    if not 0 < missing < everything or len(differences) > MOST_COMBINED:
        return None
    fitting = [
        chosen
        for size in range(1, len(differences))
        for chosen in combinations(differences, size)
        if sum(differences[record] for record in chosen) == missing
    ]
    return frozenset(fitting[0]) if len(fitting) == 1 else None


def compare(summary: UsageRecordSummary, reported: int, opened: Sequence[OpenRecord]) -> Compared:
    """Compare a period's total with the ledger.

    `reported` is the sum over the period's records, `opened` those of them that are outstanding.
    """
    differences = {r.id: r.difference for r in opened if r.difference is not None}
    told = f"Stripe says {summary.total_usage}"
    ledger = f"the ledger {reported} without and {reported + sum(differences.values())} with it"
    if len(differences) > 1:
        ledger = f"{ledger} and {len(differences) - 1} others in doubt"
    records = tuple(differences)
    if not all(record.summed for record in opened):
        return Compared({}, "the price's records are not added up: a total tells nothing", records)
    if len(differences) < len(opened):
        return Compared({}, "another request of the period is outstanding as well", records)
    found = executed_of(summary.total_usage - reported, differences)
    if found is None:
        return Compared({}, f"{told}, {ledger}: they do not tell", records)
    return Compared({record: record in found for record in records}, f"{told}, {ledger}", records)
