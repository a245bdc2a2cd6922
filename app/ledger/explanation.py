"""Explain: what was selected, what the ledger holds, what Stripe says, and a sentence for it all.

Stripe is asked after the ledger's transaction, never inside it.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from app.errors import NotFound
from app.ledger.explained import ExplainedPeriod, PeriodHead, SubjectDay
from app.ledger.explained_words import (
    PeriodStatus,
    StripeLook,
    StripeSays,
    day_sentence,
    period_sentence,
    span,
    status_of,
)
from app.ledger.explaining import ExplainingRepository
from app.ledger.selection import ItemSelection, Selection, SubjectSelection
from app.mapping.models import Combination
from app.stripe_client import StripeClient, StripeError, UsageRecordSummary

# One read, whatever it is set to: the newest periods, as many as a page of Stripe's has.
SUMMARIES: Final = 100
# Reads are rationed at Stripe: of a page with several items so many are asked about.
MOST_ASKED: Final = 3

NOT_ASKED: Final = StripeSays(StripeLook.NOT_ASKED, "Stripe was not asked, as was wished.")
NO_CLIENT: Final = StripeSays(
    StripeLook.NOT_ASKED,
    "Stripe was not asked: this process has no Stripe key, or only receives.",
)
TOO_MANY: Final = StripeSays(
    StripeLook.NOT_ASKED, "Stripe was not asked: its reads are rationed. Ask for this item alone."
)


@dataclass(frozen=True, slots=True)
class PeriodExplanation:
    """One item in one billing period, explained."""

    sentence: str
    status: PeriodStatus
    period: ExplainedPeriod
    stripe: StripeSays


@dataclass(frozen=True, slots=True)
class Explanation:
    """The whole page. `day` where a subject and a day were selected."""

    sentence: str
    made_at: datetime
    day: SubjectDay | None
    periods: tuple[PeriodExplanation, ...]


async def explain(
    repository: ExplainingRepository,
    client: StripeClient | None,
    selection: Selection,
    *,
    now: datetime,
    ask_stripe: bool = True,
) -> Explanation:
    """Explain what was selected. Raises NotFound for an item or period that is not known."""
    unasked = NO_CLIENT if ask_stripe else NOT_ASKED
    if isinstance(selection, SubjectSelection):
        day, periods = await repository.subject_day(selection.subject, selection.day)
        explained = [
            await _explained(
                period,
                client if ask_stripe and number < MOST_ASKED else None,
                unasked if client is None or not ask_stripe else TOO_MANY,
                now,
            )
            for number, period in enumerate(periods)
        ]
        return Explanation(day_sentence(day, len(periods)), now, day, tuple(explained))
    found = await repository.item_period(selection.item, selection.at, after=selection.after)
    if found is None:
        raise await _not_found(repository, selection)
    one = await _explained(found, client if ask_stripe else None, unasked, now)
    return Explanation(one.sentence, now, None, (one,))


async def _not_found(repository: ExplainingRepository, selection: ItemSelection) -> NotFound:
    known = await repository.known_periods(selection.item)
    if not known:
        return NotFound("Neither the ledger nor the subscriptions read so far know this item")
    spans = "; ".join(f"{span(start, end)} UTC" for start, end in known)
    return NotFound(f"The item has no known billing period at that time. It has: {spans}")


async def _explained(
    period: ExplainedPeriod, client: StripeClient | None, unasked: StripeSays, now: datetime
) -> PeriodExplanation:
    status = status_of(period.head, now)
    says = unasked
    if client is not None:
        says = await what_stripe_says(client, period.head, status)
    return PeriodExplanation(period_sentence(period, says), status, period, says)


async def what_stripe_says(
    client: StripeClient, head: PeriodHead, status: PeriodStatus
) -> StripeSays:
    """Stripe's summary of an item's period. Never raises for what Stripe or the network does."""
    try:
        summaries = await client.usage_record_summaries(head.subscription_item, limit=SUMMARIES)
    except (StripeError, ValueError) as error:  # ValueError: an id that no URL can hold
        return StripeSays(StripeLook.NOT_READABLE, f"It could not be read: {error}")
    start = int(head.period_start.timestamp())
    found = [summary for summary in summaries if summary.period_start == start]
    if not found and status is PeriodStatus.OPEN:
        # The first summary of an item may have no start: usage before it is none of ours.
        found = [s for s in summaries[:1] if s.invoice is None and s.period_start is None]
    if not found:
        return StripeSays(
            StripeLook.NO_SUMMARY,
            f"Stripe was asked and shows no period that begins with this one among its newest "
            f"{len(summaries)}.",
        )
    return _read(found[0], head, status)


def _read(summary: UsageRecordSummary, head: PeriodHead, status: PeriodStatus) -> StripeSays:
    comparable = head.combination in (Combination.SUM, None)
    notes = []
    if not comparable:
        notes.append(
            f"The price does not add records up (it takes the {head.combination}): its total may "
            "come from a record that this page does not show."
        )
    if status is PeriodStatus.OPEN:
        notes.append("The period is open: the figure still moves.")
    if summary.period_end is not None and summary.period_end != int(head.period_end.timestamp()):
        notes.append("Stripe has another end for this period than was known when it was booked.")
    return StripeSays(
        StripeLook.READ,
        " ".join(notes) or "Read a moment ago.",
        comparable,
        summary.total_usage,
        summary.invoice,
    )
