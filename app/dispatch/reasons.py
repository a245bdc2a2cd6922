"""Why a usage record is held, and why the line stands still; each with what to do. Pure."""

from enum import StrEnum
from typing import Final


class HoldReason(StrEnum):
    """The reason codes of held records: stable, shown by API, metrics and logs."""

    PERIOD_CLOSED = "period_closed"
    TIMESTAMP_REFUSED = "timestamp_refused"
    ITEM_GONE = "item_gone"
    OUTCOME_IN_DOUBT = "outcome_in_doubt"
    PRICE_HAS_BILLING_METER = "price_has_billing_meter"
    BILLING_THRESHOLDS = "billing_thresholds"
    IN_DOUBT = "in_doubt"
    NEGATIVE_INCREMENT = "negative_increment"
    CREDIT_DUE = "credit_due"
    QUANTITY_REFUSED = "quantity_refused"
    ATTEMPTS_EXHAUSTED = "attempts_exhausted"
    UNFORESEEN_ANSWER = "unforeseen_answer"


class StopReason(StrEnum):
    """Why nothing is sent at all."""

    STRIPE_UNAVAILABLE = "stripe_unavailable"
    KEY_REFUSED = "key_refused"
    PERMISSION_MISSING = "permission_missing"
    ACCOUNT_REFUSED = "account_refused"
    VERSION_MISMATCH = "version_mismatch"


HOLD_ACTIONS: Final[dict[HoldReason, str]] = {
    HoldReason.PERIOD_CLOSED: (
        "Stripe closed the billing period before the record arrived, and it is not carried "
        "forward. Bill the difference by hand (an invoice item). Where only `late: hold` is the "
        "reason, and the price adds up (`sum`): or map with `late: carry_forward` and release."
    ),
    HoldReason.TIMESTAMP_REFUSED: (
        "Stripe refused the timestamp; see the attempt's message. Release it when the cause is "
        "gone."
    ),
    HoldReason.ITEM_GONE: (
        "The subscription item was deleted or ended, and part of this record stands there. Compare "
        "with Stripe and bill the difference by hand."
    ),
    HoldReason.OUTCOME_IN_DOUBT: (
        "Stripe failed on an earlier attempt without saying whether it counted, and now refuses "
        "the record (its item is gone, or takes nothing but increments). Compare with the item's "
        "usage at Stripe and bill the difference by hand."
    ),
    HoldReason.PRICE_HAS_BILLING_METER: (
        "The price moved to billing meters. Map the meter to a legacy metered price and release."
    ),
    HoldReason.BILLING_THRESHOLDS: (
        "Stripe refused `set` as if there were billing thresholds, but shows none. See the "
        "attempt's message; release it to try again."
    ),
    HoldReason.IN_DOUBT: (
        "Nothing, at first: whether Stripe counted the increment is found out from the item's "
        "summaries. Where the detail says that they do not tell, look at Stripe and settle it with "
        "POST /v1/records/{id}/settle. It is never sent again before."
    ),
    HoldReason.NEGATIVE_INCREMENT: (
        "With billing thresholds Stripe takes nothing back. Later usage on the same record is set "
        "off first, and then it goes on by itself; when the period is over, credit the customer "
        "by hand (a credit note) by the amount in the detail."
    ),
    HoldReason.CREDIT_DUE: (
        "Stripe was billed more than is owed in a period that is closed: credit the customer by "
        "hand (a credit note) by the amount in the detail, and say so by "
        "POST /v1/records/{id}/credit. Or release the record: then it is set off against what is "
        "carried to the open period, as far as that goes. Do one of the two, never both."
    ),
    HoldReason.QUANTITY_REFUSED: "Stripe refused the quantity; see the attempt's message.",
    HoldReason.ATTEMPTS_EXHAUSTED: (
        "Stripe failed on this record again and again while it took others; see its attempts. "
        "Release it to try again."
    ),
    HoldReason.UNFORESEEN_ANSWER: (
        "Stripe gave an answer that nobody foresaw; see the attempt. Release it to try again."
    ),
}

STOP_ACTIONS: Final[dict[StopReason, str]] = {
    StopReason.STRIPE_UNAVAILABLE: "Nothing: it is probed and starts again by itself.",
    StopReason.KEY_REFUSED: "Set a valid STRIPE_API_KEY and restart.",
    StopReason.PERMISSION_MISSING: (
        "Give the restricted key the permission named in the detail (subscriptions: read, usage "
        "records: write)."
    ),
    StopReason.ACCOUNT_REFUSED: "Check STRIPE_ACCOUNT: the key has no access to it.",
    StopReason.VERSION_MISMATCH: (
        "Something between here and Stripe changes the API version, or Stripe no longer serves "
        "2025-02-24.acacia. Check STRIPE_API_BASE."
    ),
}

# A replica of a newer release writes reasons that this one does not know.
UNKNOWN_ACTION: Final = "This release does not know the reason: look with the newer one."


def hold_action_of(reason: str | None) -> str:
    """What to do about a record that is held for this reason."""
    known = {str(name): action for name, action in HOLD_ACTIONS.items()}
    return known.get(reason or "", UNKNOWN_ACTION)
