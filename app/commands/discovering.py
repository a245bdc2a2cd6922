"""`meterbridge mappings discover`: reads what Stripe and OpenMeter say of subjects.

Everything is a read, one after the other, at a pace that leaves the account's rate to sending. What
fails for a moment is asked again; what is refused for good ends the run before anything is changed.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import TypeVar

from app.errors import MeterbridgeError
from app.mapping.discovery import Proposal
from app.mapping.evidence import (
    METADATA_KEY,
    AttributedCustomer,
    Attribution,
    CustomerRead,
    Reading,
    SubscriptionRead,
)
from app.mapping.file import Mappings
from app.mapping.models import SubjectMapping
from app.mapping.repository import MappingRepository
from app.mapping.snapshots import from_stripe
from app.openmeter.api import OpenMeterClient
from app.openmeter.api_errors import OpenMeterError, OpenMeterRefused, OpenMeterUnreachable
from app.stripe_client import (
    MalformedAnswer,
    ProblemCategory,
    ProblemKind,
    StripeAnswered,
    StripeClient,
    StripeError,
    StripeUnreachable,
    Subscription,
    TokenBucket,
)

T = TypeVar("T")

# OpenMeter publishes no limit; a subject costs two or three calls.
OPENMETER_RATE = 25.0
# Seconds before the same is asked again.
WAITS = (1.0, 4.0, 15.0)
_MOMENTARY = frozenset({ProblemCategory.PACE, ProblemCategory.TRANSIENT})
# OpenMeter understood, and says that this subject or customer cannot be asked for.
_NOT_TO_BE_ASKED = frozenset({400, 422})


# What is being read, how much of it is done, and how much there is, where that is known.
Tell = Callable[[str, int, int | None], None]


@dataclass(frozen=True, slots=True)
class Paces:
    """How fast each side is asked."""

    stripe: TokenBucket
    openmeter: TokenBucket

    @classmethod
    def of_rate(cls, stripe_rate: float) -> "Paces":
        """Paces for one run; `stripe_rate` in calls a second."""
        return cls(TokenBucket(stripe_rate, 1), TokenBucket(OPENMETER_RATE, 1))


@dataclass(slots=True)
class Reader:
    """Reads both sides. `most`: of each list at most so many, else MeterbridgeError."""

    stripe: StripeClient
    openmeter: OpenMeterClient | None
    paces: Paces
    most: int
    now: datetime
    tell: Tell
    _answered: set[str] = field(default_factory=set)
    _of_customer: dict[str, tuple[SubscriptionRead, ...]] = field(default_factory=dict)

    async def read(self, *, metadata: bool, subjects: Sequence[str]) -> Reading:
        """The metadata of all subscriptions and customers, and whose usage the subjects' is.

        Raises MeterbridgeError where a side cannot be read.
        """
        try:
            subscriptions, customers = await self._listed() if metadata else ((), ())
            attributions = await self._attributions(subjects, with_subscriptions=not metadata)
        except StripeError as error:
            raise MeterbridgeError(self._stripe_said(error)) from None
        except OpenMeterError as error:
            raise MeterbridgeError(
                f"OpenMeter cannot be read: {error.detail}. See `meterbridge doctor`"
            ) from None
        own = (one for read in self._of_customer.values() for one in read)
        return Reading((*subscriptions, *own), customers, attributions)

    async def _listed(self) -> tuple[tuple[SubscriptionRead, ...], tuple[CustomerRead, ...]]:
        self.tell("subscriptions at Stripe", 0, None)
        subscriptions = await self._ask_stripe(partial(self.stripe.subscriptions, most=self.most))
        self.tell("customers at Stripe", 0, None)
        customers = await self._ask_stripe(partial(self.stripe.customers, most=self.most))
        return tuple(self._read(one, named=True) for one in subscriptions), tuple(
            CustomerRead(one.id, one.metadata.get(METADATA_KEY, "")) for one in customers
        )

    async def _attributions(
        self, subjects: Sequence[str], *, with_subscriptions: bool
    ) -> tuple[Attribution, ...]:
        found = []
        for done, subject in enumerate(subjects):
            self.tell("subjects at OpenMeter", done, len(subjects))
            attribution = await self._attribution(subject)
            if with_subscriptions:
                attribution = await self._with_subscriptions(attribution)
            found.append(attribution)
        return tuple(found)

    async def _attribution(self, subject: str) -> Attribution:
        openmeter = self.openmeter
        assert openmeter is not None  # noqa: S101 - nobody asks for subjects without one
        try:
            customers = await self._ask_openmeter(partial(openmeter.customers, subject))
            # OpenMeter finds by parts of names; a customer that only resembles must never pay.
            exact = [c for c in customers if subject in (*c.subject_keys, c.key)]
            attributed = []
            for customer in exact:
                linked = await self._ask_openmeter(
                    partial(openmeter.stripe_customer_id, customer.id)
                )
                attributed.append(AttributedCustomer(customer.id, linked))
        except ValueError as error:
            return Attribution(subject, refusal=f"OpenMeter cannot be asked: {error}")
        except OpenMeterRefused as error:
            if error.problem is None or error.status not in _NOT_TO_BE_ASKED:
                raise
            return Attribution(subject, refusal=error.detail)
        return Attribution(subject, tuple(attributed))

    async def _with_subscriptions(self, attribution: Attribution) -> Attribution:
        """Read the subscriptions of its customers, each customer once."""
        for name in {c.stripe_customer for c in attribution.customers if c.stripe_customer}:
            if name in self._of_customer:
                continue
            try:
                found = await self._ask_stripe(
                    partial(self.stripe.subscriptions, customer=name, most=self.most)
                )
            except ValueError:
                return Attribution(attribution.subject, refusal=f"{name} is no id of Stripe's")
            except StripeAnswered as error:
                if error.kind is not ProblemKind.RESOURCE_MISSING:
                    raise
                return Attribution(
                    attribution.subject, refusal=f"Stripe knows no customer {name} for this key"
                )
            self._of_customer[name] = tuple(self._read(one, named=False) for one in found)
        return attribution

    async def _ask_stripe(self, ask: Callable[[], Awaitable[T]]) -> T:
        return await self._patiently("stripe", self.paces.stripe, ask)

    async def _ask_openmeter(self, ask: Callable[[], Awaitable[T]]) -> T:
        return await self._patiently("openmeter", self.paces.openmeter, ask)

    async def _patiently(self, side: str, pace: TokenBucket, ask: Callable[[], Awaitable[T]]) -> T:
        for wait in (*WAITS, None):
            await pace.acquire()
            try:
                answer = await ask()
            except (StripeError, OpenMeterUnreachable) as error:
                # A side that has never answered is rather a wrong address than in trouble.
                if wait is None or not _momentary(error, known=side in self._answered):
                    raise
                pace.pause(max(wait, float(_asked_wait(error))))
            else:
                self._answered.add(side)
                return answer
        raise AssertionError("the last attempt returns or raises")

    def _read(self, subscription: Subscription, *, named: bool) -> SubscriptionRead:
        return SubscriptionRead(
            subscription.id,
            subscription.customer,
            subscription.status,
            from_stripe(subscription, self.now).items,
            subscription.metadata.get(METADATA_KEY, "") if named else "",
        )

    def _stripe_said(self, error: StripeError) -> str:
        if isinstance(error, MalformedAnswer) and "lists more than" in error.detail:
            return f"Stripe lists more than {self.most}: raise --limit (100 of them cost one read)"
        return f"Stripe cannot be read: {error.detail}. See `meterbridge doctor`"


def _momentary(error: StripeError | OpenMeterUnreachable, *, known: bool) -> bool:
    if isinstance(error, StripeAnswered):
        return error.category in _MOMENTARY
    if isinstance(error, OpenMeterUnreachable):
        return known or error.status is not None
    return known and isinstance(error, StripeUnreachable)


def _asked_wait(error: StripeError | OpenMeterUnreachable) -> int:
    """The Retry-After, of which a minute is enough for somebody who waits at a terminal."""
    if isinstance(error, OpenMeterUnreachable):
        return min(error.retry_after or 0, 60)
    return min((error.meta.retry_after if error.meta else None) or 0, 60)


async def apply(
    repository: MappingRepository, proposals: Iterable[Proposal], now: datetime
) -> tuple[str, ...]:
    """Map what is proposed. Returns the subjects that somebody else has mapped meanwhile.

    Those keep what they were given: also one that was mapped in the moment before the commit.
    """
    wanted: dict[str, tuple[SubjectMapping, ...]] = {
        one.subject: (SubjectMapping(one.subject, one.subscription),) for one in proposals
    }
    if not wanted:
        return ()
    applied = await repository.replace(Mappings({}, wanted), now=now, only_new=True)
    return tuple(sorted(applied.left_out.subjects))
