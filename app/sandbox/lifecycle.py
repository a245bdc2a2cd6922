"""How a subscription moves with the clock, how its periods are cut short, and how it ends."""

from dataclasses import replace

from app.sandbox.errors import invalid_value
from app.sandbox.ids import Ids
from app.sandbox.objects import (
    BillingPeriod,
    MissingPaymentMethod,
    Subscription,
    SubscriptionStatus,
)


def roll(subscription: Subscription, now: int, ids: Ids) -> None:
    """Carry out everything that the clock has reached, in its order."""
    while not subscription.ended and now >= subscription.next_change:
        _carry_out(subscription, subscription.next_change, ids)


def _carry_out(subscription: Subscription, at: int, ids: Ids) -> None:
    pause = subscription.pause
    if pause is not None and pause.resumes_at is not None and pause.resumes_at <= at:
        subscription.pause = None
    elif subscription.cancel_at == at or subscription.cancel_at_period_end:
        _end(subscription, at, invoice=_invoice(subscription, ids))
    elif subscription.status is SubscriptionStatus.TRIALING:
        _end_trial(subscription, at, ids)
    else:
        _next_period(subscription, at, ids)


def _end_trial(subscription: Subscription, at: int, ids: Ids) -> None:
    if subscription.missing_payment_method is MissingPaymentMethod.CANCEL:
        subscription.canceled_at = at
        _end(subscription, at, invoice=None)
        return
    paused = subscription.missing_payment_method is MissingPaymentMethod.PAUSE
    subscription.status = SubscriptionStatus.PAUSED if paused else SubscriptionStatus.ACTIVE
    _next_period(subscription, at, ids)


def cut_period(subscription: Subscription, now: int, ids: Ids, *, reset_anchor: bool) -> None:
    """End the current period now, with an invoice, and open the next one.

    With `reset_anchor` the next is a whole one and all later ones follow it; else it is what is
    left until the old period's end. A period that begins this very second is not cut.
    """
    if reset_anchor:
        subscription.cycle = replace(subscription.cycle, anchor=now)
        end = subscription.cycle.next_boundary_after(now)
    else:
        end = subscription.current.end
    _open(subscription, now, end, ids)


def end_trial(subscription: Subscription, now: int, ids: Ids) -> None:
    """End the trial now: a period begins, which is the anchor of all later ones.

    Raises StripeError (400) for a subscription that is not on trial.
    """
    if subscription.status is not SubscriptionStatus.TRIALING:
        raise invalid_value("trial_end", "The subscription is not on trial.")
    subscription.status = SubscriptionStatus.ACTIVE
    subscription.trial_end = now
    cut_period(subscription, now, ids, reset_anchor=True)


def move_trial_end(subscription: Subscription, now: int, at: int, ids: Ids) -> None:
    """Let a trial last until `at`, or begin one: the current period ends then, and is the anchor.

    A subscription that is not on trial has its period ended now, with an invoice. Raises
    StripeError (400) for an ended subscription, or when `at` is not ahead.
    """
    _alive(subscription)
    if at <= now:
        raise invalid_value("trial_end", "The trial end must be in the future.")
    if subscription.status is not SubscriptionStatus.TRIALING:
        subscription.trial_start = now
        _open(subscription, now, at, ids)
        subscription.status = SubscriptionStatus.TRIALING
    subscription.trial_end = at
    subscription.current.end = at
    subscription.cycle = replace(subscription.cycle, anchor=at)


def resume(subscription: Subscription, now: int, ids: Ids, *, reset_anchor: bool) -> None:
    """Take a subscription out of the status `paused`.

    With `reset_anchor` (Stripe's default) a period begins now. Raises StripeError (400) for any
    other status.
    """
    if subscription.status is not SubscriptionStatus.PAUSED:
        raise invalid_value("subscription", "Only a paused subscription can be resumed.")
    if reset_anchor:
        cut_period(subscription, now, ids, reset_anchor=True)
    subscription.status = SubscriptionStatus.ACTIVE


def cancel(subscription: Subscription, now: int, ids: Ids, *, invoice_now: bool) -> None:
    """Cancel now, which drops what is not yet invoiced unless `invoice_now` bills it."""
    if subscription.ended:
        return
    subscription.canceled_at = now
    subscription.cancel_at = None
    subscription.cancel_at_period_end = False
    _end(subscription, now, invoice=_invoice(subscription, ids) if invoice_now else None)


def cancel_later(subscription: Subscription, now: int, *, at: int | None) -> None:
    """Cancel at a time ahead, or (None) when the current period ends; both with an invoice.

    Raises StripeError (400) for a time that is not ahead.
    """
    if subscription.ended:
        return
    if at is not None and at <= now:
        raise invalid_value("cancel_at", "The cancellation date must be in the future.")
    subscription.canceled_at = now
    subscription.cancel_at = at
    subscription.cancel_at_period_end = at is None


def keep(subscription: Subscription) -> None:
    """Take back a cancellation that is still ahead. Raises StripeError (400) for an ended one."""
    _alive(subscription)
    subscription.canceled_at = None
    subscription.cancel_at = None
    subscription.cancel_at_period_end = False


def _alive(subscription: Subscription) -> None:
    if subscription.ended:
        raise invalid_value("subscription", "A canceled subscription cannot be changed.")


def _next_period(subscription: Subscription, at: int, ids: Ids) -> None:
    _open(subscription, at, subscription.cycle.next_boundary_after(at), ids)


def _open(subscription: Subscription, at: int, end: int, ids: Ids) -> None:
    closing = subscription.current
    if at <= closing.start:
        closing.end = end
        return
    closing.end = at
    closing.invoice = _invoice(subscription, ids)
    subscription.periods.append(BillingPeriod(at, end))


def _end(subscription: Subscription, at: int, *, invoice: str | None) -> None:
    subscription.status = SubscriptionStatus.CANCELED
    subscription.ended_at = at
    subscription.current.end = at
    subscription.current.invoice = invoice


def _invoice(subscription: Subscription, ids: Ids) -> str | None:
    """A paused subscription generates none."""
    return None if subscription.status is SubscriptionStatus.PAUSED else ids.new("in")
