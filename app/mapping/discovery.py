"""Discovery: which subject mappings the evidence proves, and where it is in doubt. Pure.

A wrong guess bills the wrong customer, so nothing is guessed: a proposal is what all evidence of a
subject agrees on, and a subject that has a mapping keeps it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from app.mapping.evidence import Evidence, Gap, Heard, Reading, Source, gather
from app.mapping.models import PriceSelector, SubjectMapping

# What a mapping file takes as a subject.
_SUBJECT = re.compile(r"[^\x00-\x1f\ud800-\udfff]{1,512}")


class Doubt(StrEnum):
    """Why nothing is proposed although something was found."""

    NAMED_TWICE = "named_twice"
    SEVERAL_SUBSCRIPTIONS = "several_subscriptions"
    SEVERAL_CUSTOMERS = "several_customers"
    SOURCES_DISAGREE = "sources_disagree"
    MAPPED_OTHERWISE = "mapped_otherwise"


ACTIONS: Final[dict[Doubt | Gap, str]] = {
    Doubt.NAMED_TWICE: (
        "Leave the subject in the metadata of the one subscription that pays for it, or map it by "
        "hand."
    ),
    Doubt.SEVERAL_SUBSCRIPTIONS: (
        "Put metadata[openmeter_subject] on the subscription that pays for it, or map it by hand."
    ),
    Doubt.SEVERAL_CUSTOMERS: "Leave the subject with one customer, or map it by hand.",
    Doubt.SOURCES_DISAGREE: "Mend the one that is wrong, or map it by hand.",
    Doubt.MAPPED_OTHERWISE: (
        "If the subscription has changed, apply two spans: the old with valid_to, the new with "
        "valid_from. Else mend what names the wrong one."
    ),
    Gap.NOT_LIVE: "Put the metadata on the subscription that is active now.",
    Gap.NO_SUBSCRIPTION: (
        "Subscribe the customer to a mapped price, map the meter to the price it has, or map the "
        "subject by hand."
    ),
    Gap.NO_CUSTOMER: (
        "Attribute the subject to a customer at OpenMeter, put metadata[openmeter_subject] on the "
        "subscription at Stripe, or map it by hand."
    ),
    Gap.NO_STRIPE_CUSTOMER: (
        "Link the customer to Stripe at OpenMeter, put metadata[openmeter_subject] on the "
        "subscription at Stripe, or map it by hand."
    ),
    Gap.REFUSED: "Map it by hand.",
    Gap.UNUSABLE_NAME: "Take control characters out of metadata[openmeter_subject].",
}


@dataclass(frozen=True, slots=True)
class Proposal:
    """A subject and the subscription that pays for it, by all that was said."""

    subject: str
    subscription: str
    source: Source
    why: str


@dataclass(frozen=True, slots=True)
class Ambiguous:
    """A subject for which more than one thing was said. `candidates`: subscriptions, sorted."""

    subject: str
    doubt: Doubt
    candidates: tuple[str, ...]
    why: str


@dataclass(frozen=True, slots=True)
class Unresolved:
    """A subject that was named, or has usage, and for which no subscription was found."""

    subject: str
    gap: Gap
    why: str


@dataclass(frozen=True, slots=True)
class Discovery:
    """What was found, each by subject. `already_mapped`: subjects whose mapping agrees."""

    proposals: tuple[Proposal, ...] = ()
    ambiguous: tuple[Ambiguous, ...] = ()
    unresolved: tuple[Unresolved, ...] = ()
    already_mapped: int = 0


def discover(
    reading: Reading,
    *,
    prices: Sequence[PriceSelector],
    existing: Mapping[str, tuple[SubjectMapping, ...]],
    now: datetime,
) -> Discovery:
    """Propose mappings by what was read.

    `prices`: those that the meter mappings name. `existing`: the subjects' spans as they stand.
    """
    found: list[Proposal | Ambiguous | Unresolved] = []
    already_mapped = 0
    for subject, heard in sorted(gather(reading, prices).items()):
        spans = existing.get(subject, ())
        standing = {s.subscription for s in spans if s.valid_to is None or s.valid_to > now}
        candidates = frozenset[str]().union(*(e.subscriptions for e in heard.evidence))
        if standing & candidates:
            already_mapped += 1
            continue
        outcome = _outcome(subject, heard, spans)
        if not (standing and isinstance(outcome, Unresolved)):
            found.append(outcome)
    return Discovery(
        tuple(one for one in found if isinstance(one, Proposal)),
        tuple(one for one in found if isinstance(one, Ambiguous)),
        tuple(one for one in found if isinstance(one, Unresolved)),
        already_mapped,
    )


def _outcome(
    subject: str, heard: Heard, spans: Sequence[SubjectMapping]
) -> Proposal | Ambiguous | Unresolved:
    evidence = heard.evidence
    told = [one.said for one in evidence]
    if not _SUBJECT.fullmatch(subject):
        # It is shown escaped: what cannot be seen or written would be of no help.
        return Unresolved(ascii(subject)[1:-1], Gap.UNUSABLE_NAME, _joined(told))
    candidates = frozenset[str]().union(*(one.subscriptions for one in evidence))
    one_payer = len({one.payer for one in evidence}) <= 1
    agreed = _agreed(evidence) if one_payer else frozenset[str]()
    if not one_payer or (candidates and len(agreed) != 1):
        told += [f"mapped to {span.subscription}" for span in spans]
        return Ambiguous(
            subject,
            _doubt(evidence, agreed),
            tuple(sorted(agreed or candidates)),
            _joined(told),
        )
    if not candidates:
        gap, said = heard.gaps[0] if heard.gaps else (Gap.NO_SUBSCRIPTION, "")
        return Unresolved(
            subject,
            Gap.NO_SUBSCRIPTION if evidence else gap,
            _joined([*told, said, *(other for _, other in heard.gaps)]),
        )
    (subscription,) = agreed
    if spans:
        mapped = sorted({span.subscription for span in spans})
        return Ambiguous(
            subject,
            Doubt.MAPPED_OTHERWISE,
            tuple(sorted({subscription, *mapped})),
            _joined([*told, *(f"mapped to {name}" for name in mapped)]),
        )
    sources = {one.source for one in evidence if one.subscriptions}
    source = Source.BOTH if len(sources) > 1 else sources.pop()
    return Proposal(subject, subscription, source, _joined(told))


def _agreed(evidence: Sequence[Evidence]) -> frozenset[str]:
    """The subscriptions that no evidence with an answer rules out."""
    answers = [one.subscriptions for one in evidence if one.subscriptions]
    return frozenset.intersection(*answers) if answers else frozenset()


def _doubt(evidence: Sequence[Evidence], agreed: frozenset[str]) -> Doubt:
    if agreed:
        return Doubt.SEVERAL_SUBSCRIPTIONS
    if len({one.subscriptions for one in evidence if one.names}) > 1:
        return Doubt.NAMED_TWICE
    kinds = {(one.source, one.names) for one in evidence}
    return Doubt.SOURCES_DISAGREE if len(kinds) > 1 else Doubt.SEVERAL_CUSTOMERS


def _joined(said: Sequence[str]) -> str:
    return "; ".join(dict.fromkeys(text for text in sorted(said) if text))
