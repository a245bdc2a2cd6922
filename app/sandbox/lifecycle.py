"""How a subscription moves with the clock, and how it ends."""

from app.sandbox.ids import Ids
from app.sandbox.objects import BillingPeriod, Subscription, SubscriptionStatus


def roll(subscription: Subscription, now: int, ids: Ids) -> None:
    """Close every period that is over, each with an invoice, and open the next."""
    while not subscription.ended and now >= subscription.current.end:
        closing = subscription.current
        closing.invoice = ids.new("in")
        if subscription.cancel_at_period_end:
            subscription.status = SubscriptionStatus.CANCELED
            subscription.ended_at = closing.end
            return
        if subscription.status is SubscriptionStatus.TRIALING:
            subscription.status = SubscriptionStatus.ACTIVE
        end = subscription.cycle.next_boundary_after(closing.end)
        subscription.periods.append(BillingPeriod(closing.end, end))


def cancel(subscription: Subscription, now: int, *, at_period_end: bool) -> None:
    """Cancel now, which drops what is not yet invoiced, or when the current period ends."""
    if subscription.ended:
        return
    subscription.canceled_at = now
    if at_period_end:
        subscription.cancel_at_period_end = True
        return
    subscription.status = SubscriptionStatus.CANCELED
    subscription.ended_at = now
    subscription.current.end = now
