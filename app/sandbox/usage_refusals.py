"""Why a usage record is refused. Most of these errors carry no code: clients match on the text."""

from collections.abc import Mapping

from app.sandbox.errors import StripeError


def period_closed() -> StripeError:
    """400: the timestamp lies in a period that has been invoiced."""
    return StripeError(
        400,
        "Cannot create the usage record with this timestamp because timestamps must be after the "
        "subscription's last invoice period (or current period start time).",
        param="timestamp",
    )


def timestamp_in_future() -> StripeError:
    """400: the timestamp has not happened yet (our wording)."""
    return StripeError(
        400,
        "Cannot create the usage record with this timestamp because timestamps must not be in "
        "the future.",
        param="timestamp",
    )


def item_no_longer_active(item: str) -> StripeError:
    """400: the item, or its subscription, has ended."""
    return StripeError(
        400,
        f"Cannot create a usage record for '{item}' because the subscription item is no longer "
        "active.",
    )


_METERED_ELSEWHERE: Mapping[str, str] = {
    "create a usage record": "/v1/billing/meter_events",
    "list usage record summaries": "/v1/billing/meters/:id/event_summaries",
}


def price_has_meter(item: str, action: str = "create a usage record") -> StripeError:
    """400: the price is billed by a billing meter."""
    return StripeError(
        400,
        f"Cannot {action} for `{item}` because it is not on the legacy metered billing system. "
        f"Call {_METERED_ELSEWHERE[action]} instead.",
        param="subscription_item",
    )


def price_is_licensed(item: str, action: str = "create a usage record") -> StripeError:
    """400: the price counts no usage (our wording)."""
    return StripeError(
        400,
        f"Cannot {action} for '{item}' because its price has usage_type=licensed; only items of a "
        "metered price have usage.",
        param="subscription_item",
    )


def only_increment_allowed() -> StripeError:
    """400: `set` on a subscription with thresholds (our wording)."""
    return StripeError(
        400,
        "Only usage records with action=increment are allowed because the subscription has "
        "billing thresholds.",
        param="action",
    )
