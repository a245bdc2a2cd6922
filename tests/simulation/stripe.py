"""Stripe in the simulation: the sandbox, asked without HTTP, which would cost a hundred times.

It refuses, rolls and adds up exactly as behind its port; what it answers goes through the real
client's reading and its table of errors.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count

from app.mapping.models import SubscriptionSnapshot
from app.mapping.snapshots import from_stripe
from app.sandbox.clock import SandboxClock
from app.sandbox.drafts import (
    CustomerDraft,
    ItemDraft,
    PlanDraft,
    PriceDraft,
    SubscriptionDraft,
)
from app.sandbox.endpoints.subscriptions import rendered
from app.sandbox.endpoints.usage_records import record
from app.sandbox.errors import StripeError as Refused
from app.sandbox.lifecycle import cancel, cancel_later, cut_period
from app.sandbox.objects import SubscriptionStatus
from app.sandbox.sandbox import Sandbox
from app.sandbox.settings import ACACIA
from app.stripe_client import (
    Action,
    AnswerMeta,
    ErrorAnswer,
    StripeAnswered,
    UsageRecordAnswer,
    classify,
)
from app.stripe_client.members import Members
from app.stripe_client.reading import read_subscription
from tests.simulation.plans import CHANGES, START, Change, Kind, Plan

PRICES = ("price_basic", "price_plus")


@dataclass(frozen=True, slots=True)
class BilledPeriod:
    """What a subscription's period came to, all items together: after `start`, up to `end`."""

    subscription: str
    start: int
    end: int
    billed: int


class SimulatedStripe:
    """The sandbox with the customers of the simulation. `grace` in seconds."""

    def __init__(self, plans: list[Plan], *, grace: int) -> None:
        clock = SandboxClock()
        clock.set(START, frozen=True)
        self.sandbox = Sandbox(api_keys=frozenset(), clock=clock, limit_per_second=0)
        self.sandbox.settings.grace_seconds = grace
        self.sandbox.settings.ledger_keeps = 1
        self.reads = self.posts = self.refusals = 0
        self._requests = count(1)
        self._held = {plan.number: [plan.subscription] for plan in plans}
        account = self.sandbox.account
        for price in PRICES:
            account.create_price(PriceDraft(id=price))
        for plan in plans:
            account.create_customer(CustomerDraft(id=f"cus_{plan.number:02}"))
            self._subscribe(plan, plan.subscription, plan.started, cancel_at=plan.cancel_at)

    def _subscribe(self, plan: Plan, name: str, at: int, *, cancel_at: int | None = None) -> None:
        self.sandbox.account.create_subscription(
            SubscriptionDraft(
                id=name,
                customer=f"cus_{plan.number:02}",
                items=[ItemDraft(id=name.replace("sub", "si"), price=PRICES[0])],
                start_date=at,
                trial_end=plan.trial_end,
                cancel_at=cancel_at,
                amount_gte=10**12 if plan.kind is Kind.THRESHOLD else None,
                reset_billing_cycle_anchor=plan.kind is Kind.THRESHOLD,
            )
        )

    def advance(self, at: int) -> None:
        """It is so late; nothing goes back."""
        self.sandbox.clock.set(at, frozen=True)

    def change(self, plan: Plan, number: int) -> None:
        """Carry out the plan's change of that number, now."""
        account, now = self.sandbox.account, self.sandbox.clock.now()
        found = account.subscription(self._held[plan.number][-1])
        what = CHANGES[plan.kind]
        if what is Change.CANCEL_AT_PERIOD_END:
            cancel_later(found, now, at=None)
        elif what is Change.THRESHOLD:
            cut_period(found, now, self.sandbox.ids, reset_anchor=True)
        elif what is Change.NEW_SUBSCRIPTION:
            cancel(found, now, self.sandbox.ids, invoice_now=True)
            self._held[plan.number].append(upgraded(plan))
            self._subscribe(plan, upgraded(plan), now)
        else:
            item = ItemDraft(id=f"si_{plan.number:02}_{number}", price=PRICES[1 - number])
            reset = what is Change.NEW_PERIOD
            account.change_plan(found.id, PlanDraft(items=[item], reset_anchor=reset))

    def periods(self, plan: Plan) -> list[BilledPeriod]:
        """The periods of a customer's subscriptions, one after the other."""
        found = []
        for name in self._held[plan.number]:
            subscription = self.sandbox.account.subscription(name)
            found += [
                BilledPeriod(
                    name,
                    period.start,
                    period.end,
                    sum(sum(item.usage.get(n, {}).values()) for item in subscription.items),
                )
                for n, period in enumerate(subscription.periods)
            ]
        return found

    def ended_at(self, plan: Plan) -> int | None:
        """When the customer's last subscription ended, if it did."""
        last = self.sandbox.account.subscription(self._held[plan.number][-1])
        return last.ended_at if last.status is SubscriptionStatus.CANCELED else None

    def current_item(self, plan: Plan, at: int) -> str | None:
        """The item that a look at the customer's subscriptions finds for usage up to `at`."""
        names = self._held[plan.number]
        turned = len(names) > 1 and at > plan.changes[0]
        items = self.sandbox.account.subscription(names[1 if turned else 0]).live_items
        return items[0].id if items else None

    async def read(self, name: str) -> SubscriptionSnapshot:
        """What meterbridge reads of a subscription."""
        self.reads += 1
        at = self.sandbox.clock.now()
        document = rendered(self.sandbox, self.sandbox.account.subscription(name), ACACIA)
        subscription, _ = read_subscription(Members(document, at="", meta=AnswerMeta()))
        return from_stripe(subscription, datetime.fromtimestamp(at, UTC))

    async def post_usage_record(
        self,
        *,
        subscription_item: str,
        quantity: int,
        timestamp: int,
        action: Action,
        idempotency_key: str,
    ) -> UsageRecordAnswer:
        """What the real client's call does. Raises StripeAnswered."""
        self.posts += 1
        request = f"req_{next(self._requests):07}"
        try:
            stands = record(
                self.sandbox,
                subscription_item,
                quantity=quantity,
                action=action,
                timestamp=timestamp,
                idempotency_key=idempotency_key,
                request_id=request,
            )
        except Refused as refusal:
            self.refusals += 1
            raise _answered(refusal, request) from None
        return UsageRecordAnswer(
            id=str(stands["id"]),
            quantity=int(str(stands["quantity"])),
            subscription_item=subscription_item,
            timestamp=timestamp,
            livemode=False,
            meta=AnswerMeta(request_id=request),
        )


def _answered(refusal: Refused, request: str) -> StripeAnswered:
    answer = ErrorAnswer(
        status=refusal.status,
        type=refusal.kind,
        code=refusal.code,
        param=refusal.param,
        message=refusal.message,
        rate_limited_reason=None,
    )
    return StripeAnswered(
        classify(answer), answer, AnswerMeta(status=refusal.status, request_id=request)
    )


def upgraded(plan: Plan) -> str:
    """The subscription that takes the place of the first one."""
    return f"{plan.subscription}_new"
