"""What Stripe and OpenMeter say of who pays for a subject, as evidence. Pure.

Two ways lead from a subject to a subscription: the metadata of a subscription or customer at Stripe
(`openmeter_subject`: one or several subjects), and OpenMeter's customers, which may tell a Stripe
customer. A customer stands for those of its live subscriptions that have an item which a meter
mapping bills.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from app.mapping.models import PriceSelector, SnapshotItem

METADATA_KEY: Final = "openmeter_subject"
# The statuses in which Stripe takes usage.
LIVE: Final = frozenset({"active", "trialing", "past_due", "unpaid"})
_NONE_FITS = "no active subscription with a mapped price"


class Source(StrEnum):
    """Who says so."""

    STRIPE = "stripe"
    OPENMETER = "openmeter"
    BOTH = "stripe and openmeter"


class Asked(StrEnum):
    """Which sources are asked."""

    STRIPE = "stripe"
    OPENMETER = "openmeter"
    ALL = "all"


class Gap(StrEnum):
    """Where the way from a subject to a subscription ends."""

    NOT_LIVE = "subscription_not_live"
    NO_SUBSCRIPTION = "no_subscription"
    NO_CUSTOMER = "no_customer"
    NO_STRIPE_CUSTOMER = "no_stripe_customer"
    REFUSED = "refused"
    UNUSABLE_NAME = "unusable_name"


@dataclass(frozen=True, slots=True)
class SubscriptionRead:
    """A subscription as Stripe listed it. `named`: the value of its metadata key, or empty."""

    id: str
    customer: str
    status: str
    items: tuple[SnapshotItem, ...] = ()
    named: str = ""


@dataclass(frozen=True, slots=True)
class CustomerRead:
    """A customer as Stripe listed it. `named`: the value of its metadata key, or empty."""

    id: str
    named: str = ""


@dataclass(frozen=True, slots=True)
class AttributedCustomer:
    """A customer of OpenMeter's and the customer that it is at Stripe, if it is one there."""

    id: str
    stripe_customer: str | None


@dataclass(frozen=True, slots=True)
class Attribution:
    """Whose usage a subject's is, by OpenMeter. `refusal`: why OpenMeter or Stripe did not say."""

    subject: str
    customers: tuple[AttributedCustomer, ...] = ()
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class Reading:
    """Everything that was read, of all sources that were asked."""

    subscriptions: tuple[SubscriptionRead, ...] = ()
    customers: tuple[CustomerRead, ...] = ()
    attributions: tuple[Attribution, ...] = ()


@dataclass(frozen=True, slots=True)
class Evidence:
    """One saying about a subject: one of these subscriptions pays (none: it leads nowhere).

    `payer` is the Stripe customer. `names`: the subscription itself is named, not its customer.
    """

    source: Source
    payer: str
    subscriptions: frozenset[str]
    said: str
    names: bool = False


@dataclass(slots=True)
class Heard:
    """All that was said of one subject, and the ways that ended early."""

    evidence: list[Evidence] = field(default_factory=list)
    gaps: list[tuple[Gap, str]] = field(default_factory=list)


def subjects_in(value: str) -> list[str]:
    """The subjects that a metadata value names, separated by commas or white space."""
    return sorted(set(value.replace(",", " ").split()))


def bills(subscription: SubscriptionRead, prices: Sequence[PriceSelector]) -> bool:
    """Whether an item can take usage records for one of these prices."""
    return any(
        item.usage_type == "metered" and item.billing_meter is None and price.matches(item)
        for item in subscription.items
        for price in prices
    )


def gather(reading: Reading, prices: Sequence[PriceSelector]) -> dict[str, Heard]:
    """What was said of each subject. `prices`: those that the meter mappings name."""
    fitting: defaultdict[str, set[str]] = defaultdict(set)
    for subscription in reading.subscriptions:
        if subscription.status in LIVE and bills(subscription, prices):
            fitting[subscription.customer].add(subscription.id)

    heard: defaultdict[str, Heard] = defaultdict(Heard)
    for subscription in reading.subscriptions:
        for subject in subjects_in(subscription.named):
            if subscription.status in LIVE:
                unbilled = subscription.id not in fitting[subscription.customer]
                heard[subject].evidence.append(_named(subscription, unbilled=unbilled))
            else:
                said = f"metadata of {subscription.id}, which is {subscription.status}"
                heard[subject].gaps.append((Gap.NOT_LIVE, said))
    for customer in reading.customers:
        found = frozenset(fitting[customer.id])
        said = f"metadata of {customer.id}: {_listed(found)}"
        for subject in subjects_in(customer.named):
            heard[subject].evidence.append(Evidence(Source.STRIPE, customer.id, found, said))
    for attribution in reading.attributions:
        of_subject = heard[attribution.subject]
        of_subject.gaps += _attribution_gaps(attribution)
        of_subject.evidence += _attributed(attribution, fitting)
    return dict(heard)


def _named(subscription: SubscriptionRead, *, unbilled: bool) -> Evidence:
    but = ", of which no item has a mapped price yet" if unbilled else ""
    return Evidence(
        Source.STRIPE,
        subscription.customer,
        frozenset({subscription.id}),
        f"metadata of {subscription.id}{but}",
        names=True,
    )


def _attributed(
    attribution: Attribution, fitting: defaultdict[str, set[str]]
) -> Iterator[Evidence]:
    several = len(attribution.customers) > 1
    for customer in attribution.customers:
        name = f"OpenMeter's customer {customer.id}"
        stripe = customer.stripe_customer
        if stripe is None and not several:
            continue
        found = frozenset(fitting[stripe]) if stripe else frozenset[str]()
        said = f"{name} is {stripe}: {_listed(found)}" if stripe else f"{name} is none at Stripe"
        # Two customers with one subject are two payers, wherever they lead to.
        payer = name if several or stripe is None else stripe
        yield Evidence(Source.OPENMETER, payer, found, said)


def _attribution_gaps(attribution: Attribution) -> Iterator[tuple[Gap, str]]:
    if attribution.refusal:
        yield Gap.REFUSED, attribution.refusal
    elif not attribution.customers:
        yield Gap.NO_CUSTOMER, "OpenMeter has no customer with exactly this subject or key"
    elif len(attribution.customers) == 1 and attribution.customers[0].stripe_customer is None:
        name = attribution.customers[0].id
        yield Gap.NO_STRIPE_CUSTOMER, f"OpenMeter's customer {name} is no customer at Stripe"


def _listed(found: frozenset[str]) -> str:
    return ", ".join(sorted(found)) or _NONE_FITS
