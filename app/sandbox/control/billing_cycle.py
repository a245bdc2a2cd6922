"""What moves a subscription's periods: thresholds, plans, trials, pauses, and its end."""

from fastapi import APIRouter

from app.sandbox.control.models import (
    Cancellation,
    Pause,
    ReachedThreshold,
    Resumption,
    SubscriptionThreshold,
    TrialEnd,
)
from app.sandbox.drafts import PlanDraft
from app.sandbox.endpoints import subscriptions
from app.sandbox.errors import invalid_value
from app.sandbox.lifecycle import (
    cancel,
    cancel_later,
    cut_period,
    end_trial,
    keep,
    move_trial_end,
    resume,
)
from app.sandbox.objects import PauseCollection, Subscription, SubscriptionStatus
from app.sandbox.sandbox import Sandbox
from app.sandbox.settings import ACACIA
from app.sandbox.wire import JsonObject


def build_router(sandbox: Sandbox) -> APIRouter:
    """Routes below one subscription."""
    router = APIRouter(prefix="/subscriptions/{subscription_id}", tags=["billing cycle"])
    for routes in (_thresholds, _plans, _pauses, _endings):
        router.include_router(routes(sandbox))
    return router


def _rendered(sandbox: Sandbox, found: Subscription) -> JsonObject:
    return subscriptions.rendered(sandbox, found, ACACIA)


def _thresholds(sandbox: Sandbox) -> APIRouter:
    router = APIRouter(prefix="/thresholds")

    @router.put("")
    async def set_thresholds(subscription_id: str, change: SubscriptionThreshold) -> JsonObject:
        """Set or take away the subscription's billing threshold."""
        found = sandbox.account.subscription(subscription_id)
        if change.reset_billing_cycle_anchor:
            sandbox.account.reset_at_thresholds(found)
        found.reset_billing_cycle_anchor = change.reset_billing_cycle_anchor
        found.amount_gte = change.amount_gte
        return _rendered(sandbox, found)

    @router.post("/reach")
    async def reach_threshold(subscription_id: str, how: ReachedThreshold) -> JsonObject:
        """Let a threshold be reached: the period ends now with an invoice, and another begins.

        It lasts until the old one's end or, with the anchor reset, a whole interval. No threshold
        counts during a trial.
        """
        found = sandbox.account.subscription(subscription_id)
        if found.ended or found.status is SubscriptionStatus.TRIALING:
            raise invalid_value("subscription", f"Thresholds do not count while {found.status}.")
        reset = how.reset_billing_cycle_anchor
        reset = found.reset_billing_cycle_anchor if reset is None else reset
        cut_period(found, sandbox.clock.now(), sandbox.ids, reset_anchor=reset)
        return _rendered(sandbox, found)

    return router


def _plans(sandbox: Sandbox) -> APIRouter:
    router = APIRouter()

    @router.post("/plan")
    async def change_plan(subscription_id: str, plan: PlanDraft) -> JsonObject:
        """A plan change: other items take the place of all items."""
        return _rendered(sandbox, sandbox.account.change_plan(subscription_id, plan))

    @router.put("/trial_end")
    async def set_trial_end(subscription_id: str, end: TrialEnd) -> JsonObject:
        """End a trial now, or move its end, or begin a trial: the trial's end is the anchor."""
        found = sandbox.account.subscription(subscription_id)
        if end.at is None:
            end_trial(found, sandbox.clock.now(), sandbox.ids)
        else:
            move_trial_end(found, sandbox.clock.now(), end.at, sandbox.ids)
        return _rendered(sandbox, found)

    return router


def _pauses(sandbox: Sandbox) -> APIRouter:
    router = APIRouter()

    @router.put("/pause_collection")
    async def pause_collection(subscription_id: str, pause: Pause) -> JsonObject:
        """Pause the collection of invoices; periods go on, and usage is taken."""
        found = sandbox.account.subscription(subscription_id)
        found.pause = PauseCollection(pause.behavior, pause.resumes_at)
        return _rendered(sandbox, sandbox.account.subscription(subscription_id))

    @router.delete("/pause_collection")
    async def resume_collection(subscription_id: str) -> JsonObject:
        """Collect invoices again."""
        found = sandbox.account.subscription(subscription_id)
        found.pause = None
        return _rendered(sandbox, found)

    @router.post("/resume")
    async def resume_subscription(subscription_id: str, how: Resumption) -> JsonObject:
        """Take a subscription out of the status `paused`, as a first payment method would."""
        found = sandbox.account.subscription(subscription_id)
        resume(found, sandbox.clock.now(), sandbox.ids, reset_anchor=how.reset_anchor)
        return _rendered(sandbox, found)

    return router


def _endings(sandbox: Sandbox) -> APIRouter:
    router = APIRouter()

    @router.post("/cancel")
    async def cancel_subscription(subscription_id: str, how: Cancellation) -> JsonObject:
        """Cancel now (what is not yet invoiced is dropped), at a time, or at the period's end."""
        found = sandbox.account.subscription(subscription_id)
        now = sandbox.clock.now()
        if how.at_period_end or how.at is not None:
            cancel_later(found, now, at=how.at)
        else:
            cancel(found, now, sandbox.ids, invoice_now=how.invoice_now)
        return _rendered(sandbox, found)

    @router.post("/keep")
    async def keep_subscription(subscription_id: str) -> JsonObject:
        """Take back a cancellation that is still ahead."""
        found = sandbox.account.subscription(subscription_id)
        keep(found)
        return _rendered(sandbox, found)

    return router
