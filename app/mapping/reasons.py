"""Why a window is parked, and what releases it. Pure: one table."""

from enum import StrEnum
from typing import Final


class ParkReason(StrEnum):
    """The reason codes of parked windows: stable, shown by API, metrics and logs."""

    SUBJECT_CONTRADICTS = "subject_contradicts"
    NO_SUBJECT_MAPPING = "no_subject_mapping"
    NO_METER_MAPPING = "no_meter_mapping"
    GROUP_UNMATCHED = "group_unmatched"
    AGGREGATION_UNSUPPORTED = "aggregation_unsupported"
    AGGREGATION_MISMATCH = "aggregation_mismatch"
    SUBSCRIPTION_NOT_FOUND = "subscription_not_found"
    SUBSCRIPTION_ENDED = "subscription_ended"
    ITEM_NOT_FOUND = "item_not_found"
    ITEM_AMBIGUOUS = "item_ambiguous"
    PRICE_LICENSED = "price_licensed"
    PRICE_HAS_BILLING_METER = "price_has_billing_meter"
    NOT_ACROSS_GROUPS = "not_across_groups"
    BEFORE_SUBSCRIPTION = "before_subscription"
    PERIOD_CLOSED = "period_closed"
    PERIOD_NOT_OPEN = "period_not_open"
    OVERLAPS_WINDOW = "overlaps_window"
    OLDER_THAN_RETENTION = "older_than_retention"
    NEEDS_APPROVAL = "needs_approval"
    QUERY_UNANSWERED = "query_unanswered"
    BOOKING_FAILED = "booking_failed"


ACTIONS: Final[dict[ParkReason, str]] = {
    ParkReason.SUBJECT_CONTRADICTS: (
        "The row names another subject than its query. Look at the delivery; if the row is right, "
        "release the window."
    ),
    ParkReason.NO_SUBJECT_MAPPING: (
        "Apply a mapping for this subject that is valid at the window's time."
    ),
    ParkReason.NO_METER_MAPPING: "Apply a mapping for this meter.",
    ParkReason.GROUP_UNMATCHED: (
        "The meter is split by group, and no entry takes these. Apply a mapping for them, or an "
        "entry without `groups`, which takes the rest."
    ),
    ParkReason.AGGREGATION_UNSUPPORTED: (
        "AVG, MIN and UNIQUE_COUNT cannot be combined from windows. Set OPENMETER_API_URL and map "
        "the meter with `whole_period: true`, or bill it through a SUM, COUNT or MAX meter."
    ),
    ParkReason.AGGREGATION_MISMATCH: (
        "SUM and COUNT need a price with aggregate_usage=sum, MAX one with max, LATEST one with "
        "last_during_period or last_ever. Map the meter to such a price."
    ),
    ParkReason.SUBSCRIPTION_NOT_FOUND: (
        "Stripe knows no such subscription for this key. Check the id and whether the key is of "
        "the right account and mode; map the subject anew, or release the windows by this reason. "
        "By itself it is tried again after SNAPSHOT_MAX_AGE, and six hours at least."
    ),
    ParkReason.SUBSCRIPTION_ENDED: "Map the subject to the subscription that is active now.",
    ParkReason.ITEM_NOT_FOUND: (
        "Add the price to the subscription at Stripe, or map the meter to the price it has; it is "
        "tried again by itself."
    ),
    ParkReason.ITEM_AMBIGUOUS: "Two items fit. Name the price more narrowly in the meter mapping.",
    ParkReason.PRICE_LICENSED: "Map the meter to a metered price; this one is licensed.",
    ParkReason.PRICE_HAS_BILLING_METER: (
        "The price has moved to billing meters, which take no usage records. Map the meter to a "
        "legacy metered price, or send meter events for it."
    ),
    ParkReason.NOT_ACROSS_GROUPS: (
        "The newest value, or a whole period's, cannot be combined over several groups, subjects "
        "or meters. Give each a price of its own (`groups` in the meter mapping)."
    ),
    ParkReason.BEFORE_SUBSCRIPTION: (
        "The usage is older than the subscription. Map the subject to the subscription that paid "
        "then (`valid_to`), or leave it: it is not billed."
    ),
    ParkReason.PERIOD_CLOSED: (
        "Stripe takes no usage for a closed period. Bill it by hand (an invoice item). Where only "
        "`late: hold` is the reason, and the price adds up (`sum`): or map the meter with "
        "`late: carry_forward` and release."
    ),
    ParkReason.PERIOD_NOT_OPEN: "Nothing: it is booked by itself when the period has begun.",
    ParkReason.OVERLAPS_WINDOW: (
        "Another window of this meter, subject and group covers a part of its time already; the "
        "detail names it. Bill one of the two: stop one of the two syncs, and release this window "
        "once the other one is gone."
    ),
    ParkReason.OLDER_THAN_RETENTION: (
        "It belongs to a time whose windows were deleted (RETENTION_DAYS): it may have been billed "
        "already. If it was not, bill it by hand (an invoice item or a credit note)."
    ),
    ParkReason.NEEDS_APPROVAL: (
        "The correction takes away more than APPROVE_REDUCTIONS_ABOVE. What was booked stays until "
        "the window is released, which approves this correction."
    ),
    ParkReason.QUERY_UNANSWERED: (
        "OpenMeter did not tell the period's value. Check OPENMETER_API_URL and OPENMETER_API_KEY "
        "(`meterbridge doctor`); it is asked again by itself."
    ),
    ParkReason.BOOKING_FAILED: (
        "The log has the error: most likely a defect of this program. Report it, and release the "
        "windows by this reason after the upgrade."
    ),
}

# Reasons that lie in what Stripe holds: a snapshot that changed is worth another look.
STRIPE_SIDE: Final = frozenset(
    {
        ParkReason.SUBSCRIPTION_NOT_FOUND,
        ParkReason.SUBSCRIPTION_ENDED,
        ParkReason.ITEM_NOT_FOUND,
        ParkReason.ITEM_AMBIGUOUS,
        ParkReason.PRICE_LICENSED,
        ParkReason.PRICE_HAS_BILLING_METER,
        ParkReason.AGGREGATION_MISMATCH,
        ParkReason.PERIOD_NOT_OPEN,
    }
)

# Reasons of windows that were accepted beside the others of their series, and wait for their place.
# None is billed yet, and none overlaps what is.
ACCEPTED: Final = STRIPE_SIDE | {
    ParkReason.NO_SUBJECT_MAPPING,
    ParkReason.NO_METER_MAPPING,
    ParkReason.GROUP_UNMATCHED,
    ParkReason.AGGREGATION_UNSUPPORTED,
    ParkReason.NOT_ACROSS_GROUPS,
    ParkReason.BEFORE_SUBSCRIPTION,
    ParkReason.PERIOD_CLOSED,
}

# A replica of a newer release writes reasons that this one does not know.
UNKNOWN_ACTION: Final = "This release does not know the reason: look with the newer one."


def action_of(reason: str | None) -> str:
    """What releases a window that is parked for this reason."""
    known = {str(name): action for name, action in ACTIONS.items()}
    return known.get(reason or "", UNKNOWN_ACTION)
