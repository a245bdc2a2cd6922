"""The doctor at Stripe: the key, what it may read, and the subscriptions that usage goes to."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from app.clock import Clock
from app.commands.doctor_findings import Finding, Level, Tell
from app.config import Settings
from app.dispatch.decide import is_outage, stop_of
from app.dispatch.reasons import STOP_ACTIONS, StopReason
from app.mapping.file import Mappings
from app.mapping.models import MeterMapping, SubjectMapping, SubscriptionSnapshot
from app.mapping.reasons import ACTIONS, ParkReason
from app.mapping.resolution import Parked
from app.mapping.resolve import billable_item
from app.mapping.snapshots import read_from_stripe
from app.mapping.splitting import describe_name
from app.stripe_client import DEFAULT_BASE_URL, STRIPE_VERSION, StripeClient, StripeError

# Reads are rationed at Stripe: 500 for each transaction, averaged over 30 days.
MOST_SUBSCRIPTIONS = 20
# What Stripe shows of a subscription at once; the others come on pages of a hundred.
_SHOWN_ITEMS, _PAGE = 10, 100

_CHECKS = {
    StopReason.KEY_REFUSED: "stripe_key",
    StopReason.PERMISSION_MISSING: "stripe_reading",
    StopReason.ACCOUNT_REFUSED: "stripe_account",
    StopReason.VERSION_MISMATCH: "stripe_version",
}
# These say something of the subscription, whatever the meter.
_OF_THE_SUBSCRIPTION = frozenset(
    {
        ParkReason.SUBSCRIPTION_NOT_FOUND,
        ParkReason.SUBSCRIPTION_ENDED,
    }
)


def key_finding(settings: Settings) -> Finding:
    """What the key says by itself."""
    if settings.stripe_api_key is None:
        return Finding(
            "stripe_key",
            Level.PROBLEM,
            "STRIPE_API_KEY is not set: usage is received, but neither booked nor sent",
            "Set STRIPE_API_KEY to a secret or restricted key, sk_… or rk_….",
        )
    key = settings.stripe_api_key.get_secret_value()
    kind = "a restricted key" if key.startswith("rk_") else "a secret key"
    mode = "LIVE mode: real money" if settings.live_mode else "test mode"
    if settings.stripe_api_base == DEFAULT_BASE_URL:
        return Finding("stripe_mode", Level.OK, f"{kind}, {mode}")
    detail = f"{kind}, {mode}, for {settings.stripe_api_base}"
    if settings.live_mode:
        return Finding(
            "stripe_mode",
            Level.WARNING,
            f"{detail}, which is not Stripe's own address",
            "Unset STRIPE_API_BASE, unless that is a proxy of yours.",
        )
    return Finding("stripe_mode", Level.OK, detail)


class StripeExamination:
    """Looks at Stripe and counts its reads."""

    def __init__(self, client: StripeClient, clock: Clock, tell: Tell) -> None:
        self._client = client
        self._clock = clock
        self._tell = tell
        self.reads = 0

    async def access(self, account: str | None) -> bool:
        """One small read: are key, account and version accepted? Tells, and returns, whether."""
        self.reads += 1
        try:
            await self._client.probe()
        except StripeError as error:
            self._tell(refusal(error))
            return False
        whose = account or "the key's own (STRIPE_ACCOUNT is not set)"
        self._tell(Finding("stripe_key", Level.OK, "accepted"))
        self._tell(Finding("stripe_account", Level.OK, whose))
        self._tell(Finding("stripe_version", Level.OK, f"{STRIPE_VERSION}, and echoed"))
        return True

    async def subscriptions(self, mappings: Mappings) -> None:
        """Read some of the subscriptions that are mapped now, and tell whether usage would pass."""
        now = self._clock.now()
        names = mapped_now(mappings.subjects, now)
        looked_at = sample(names, MOST_SUBSCRIPTIONS)
        meters = [meter for split in mappings.meters.values() for meter in split]
        if not names:
            return
        for name in looked_at:
            try:
                snapshot = await read_from_stripe(self._client, name, self._clock)
            except StripeError as error:
                self.reads += 1
                self._tell(refusal(error))
                return
            self.reads += reads_of(snapshot)
            self._tell(subscription_finding(snapshot, meters, now))
        self._tell(
            Finding(
                "stripe_reading",
                Level.OK,
                f"{len(looked_at)} of {len(names)} mapped subscriptions read; whether usage "
                "records may be written shows with the first one",
            )
        )


def refusal(error: StripeError) -> Finding:
    """What an answer of Stripe, or its lack, says about the configuration."""
    reason = stop_of(error)
    if reason is not None:
        return Finding(_CHECKS[reason], Level.PROBLEM, str(error), STOP_ACTIONS[reason])
    if is_outage(error):
        return Finding(
            "stripe_answers",
            Level.PROBLEM,
            str(error),
            "Check STRIPE_API_BASE, DNS and the way out of this network; if Stripe itself is "
            "down, everything goes on by itself later.",
        )
    return Finding("stripe_answers", Level.WARNING, str(error), "Run this again in a minute.")


def mapped_now(subjects: Mapping[str, Sequence[SubjectMapping]], now: datetime) -> list[str]:
    """The subscriptions that some subject is mapped to at a time, by name."""
    return sorted(
        {span.subscription for spans in subjects.values() for span in spans if span.covers(now)}
    )


def sample(names: Sequence[str], most: int) -> list[str]:
    """At most so many, evenly spread, the same ones every time."""
    if len(names) <= most:
        return list(names)
    return [names[position * len(names) // most] for position in range(most)]


def reads_of(snapshot: SubscriptionSnapshot) -> int:
    """What reading a subscription has cost."""
    further = max(0, len(snapshot.items) - _SHOWN_ITEMS)
    return 1 + -(-further // _PAGE)


def subscription_finding(
    snapshot: SubscriptionSnapshot, meters: Iterable[MeterMapping], now: datetime
) -> Finding:
    """Whether usage of each mapped meter would pass: by the very rules of booking."""
    check = "subscription"
    found = {describe_name(meter): billable_item(snapshot, meter, now) for meter in meters}
    billed = sorted(meter for meter, item in found.items() if not isinstance(item, Parked))
    parked = {meter: item for meter, item in sorted(found.items()) if isinstance(item, Parked)}
    faults = [p for p in parked.values() if p.reason is not ParkReason.ITEM_NOT_FOUND]
    name = snapshot.subscription
    if faults:
        details = dict.fromkeys(fault.detail for fault in faults)
        return Finding(check, Level.PROBLEM, "; ".join(details), ACTIONS[faults[0].reason])
    if not found:
        return Finding(check, Level.OK, f"{name} is {snapshot.status}")
    if not billed:
        return Finding(
            check,
            Level.PROBLEM,
            f"{name} has an item for none of the mapped meters",
            ACTIONS[ParkReason.ITEM_NOT_FOUND],
        )
    detail = f"{name} is {snapshot.status} and bills {', '.join(billed)}"
    if parked:
        return Finding(
            check,
            Level.WARNING,
            f"{detail}; it has no item for {', '.join(parked)}",
            "Nothing, unless its subjects use those meters: such usage is parked.",
        )
    return Finding(check, Level.OK, detail)
