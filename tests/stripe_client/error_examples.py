"""Error answers as Stripe gives them: one captured example per row of the table, and strangers."""

from app.stripe_client.problems import ErrorAnswer, ProblemKind

REQUEST = "invalid_request_error"
LOCKED = (
    "This object cannot be accessed right now because another API request or Stripe process is"
    " currently accessing it. If you see this error intermittently, retry the request."
)

# Wordings that Stripe does not publish (timestamps in the future, thresholds) are ours.
EXAMPLES: tuple[tuple[ProblemKind, ErrorAnswer], ...] = (
    (
        ProblemKind.PERIOD_CLOSED,
        ErrorAnswer(
            400,
            REQUEST,
            param="timestamp",
            message="Cannot create the usage record with this timestamp because timestamps must be"
            " after the subscription's last invoice period (or current period start time).",
        ),
    ),
    (
        ProblemKind.TIMESTAMP_IN_FUTURE,
        ErrorAnswer(
            400,
            REQUEST,
            param="timestamp",
            message="Cannot create the usage record with a timestamp in the future.",
        ),
    ),
    (
        ProblemKind.PRICE_HAS_BILLING_METER,
        ErrorAnswer(
            400,
            REQUEST,
            param="subscription_item",
            message="Cannot create a usage record for `si_RkRZDOFoFK0lDA` because it is not on the"
            " legacy metered billing system. Call /v1/billing/meter_events instead.",
        ),
    ),
    (
        ProblemKind.PRICE_HAS_BILLING_METER,
        ErrorAnswer(
            400,
            REQUEST,
            message="Cannot list usage record summaries for `si_1` because it is not on the legacy"
            " metered billing system. Call /v1/billing/meters/:id/event_summaries instead.",
        ),
    ),
    (
        ProblemKind.ITEM_NO_LONGER_ACTIVE,
        ErrorAnswer(
            400,
            REQUEST,
            message="Cannot create a usage record for 'si_TbITgirZHFvrkY' because the subscription"
            " item is no longer active.",
        ),
    ),
    (
        ProblemKind.ITEM_NO_LONGER_ACTIVE,
        ErrorAnswer(
            400,
            REQUEST,
            message="Cannot create the usage record because the subscription has been canceled.",
        ),
    ),
    (
        ProblemKind.INVALID_INTEGER,
        ErrorAnswer(
            400,
            REQUEST,
            code="parameter_invalid_integer",
            param="quantity",
            message="Invalid integer: 10.0",
        ),
    ),
    (
        ProblemKind.INVALID_INTEGER,
        ErrorAnswer(400, REQUEST, param="quantity", message="Invalid integer: 1e3"),
    ),
    (
        ProblemKind.THRESHOLDS_INCREMENT_ONLY,
        ErrorAnswer(
            400,
            REQUEST,
            param="action",
            message="Subscriptions with billing thresholds only accept the action increment.",
        ),
    ),
    (
        ProblemKind.RESOURCE_MISSING,
        ErrorAnswer(
            404,
            REQUEST,
            code="resource_missing",
            param="id",
            message="No such subscription item: 'si_1'",
        ),
    ),
    (
        ProblemKind.RESOURCE_MISSING,
        ErrorAnswer(
            404,
            REQUEST,
            code="resource_missing",
            message="No such subscription_item: 'si_1'; a similar object exists in live mode, but a"
            " test mode key was used to make this request.",
        ),
    ),
    (
        ProblemKind.RESOURCE_MISSING,
        ErrorAnswer(
            400,
            REQUEST,
            code="resource_missing",
            param="customer",
            message="No such customer: 'cus_1'",
        ),
    ),
    (
        ProblemKind.KEY_REFUSED,
        ErrorAnswer(401, REQUEST, message="Invalid API Key provided: sk_test_[key]"),
    ),
    (
        ProblemKind.KEY_REFUSED,
        ErrorAnswer(401, REQUEST, code="api_key_expired", message="Expired API Key provided"),
    ),
    (ProblemKind.KEY_REFUSED, ErrorAnswer(401)),
    (
        ProblemKind.PERMISSION_MISSING,
        ErrorAnswer(
            403,
            REQUEST,
            message="The provided key 'rk_live_[key]' does not have the required permissions for"
            " this endpoint on account 'acct_123'. Having the 'rak_usage_record_write' permission"
            " would allow this request to continue.",
        ),
    ),
    (
        ProblemKind.ACCOUNT_REFUSED,
        ErrorAnswer(
            403,
            REQUEST,
            code="account_invalid",
            message="The provided key 'sk_test_[key]' does not have access to account 'acct_1' (or"
            " that account does not exist). Application access may have been revoked.",
        ),
    ),
    (
        ProblemKind.ACCOUNT_REFUSED,
        ErrorAnswer(
            403,
            REQUEST,
            message="Only Stripe Connect platforms can work with other accounts.",
        ),
    ),
    (
        ProblemKind.VERSION_UNSUPPORTED,
        ErrorAnswer(
            404,
            REQUEST,
            message="Unrecognized request URL (POST: /v1/subscription_items/si_1/usage_records)."
            " Please see https://stripe.com/docs or we can help at https://support.stripe.com/.",
        ),
    ),
    (
        ProblemKind.VERSION_UNSUPPORTED,
        ErrorAnswer(400, REQUEST, message="Invalid Stripe API version: 2025-02-30.acacia"),
    ),
    (
        ProblemKind.IDEMPOTENCY_MISMATCH,
        ErrorAnswer(
            400,
            "idempotency_error",
            message="Keys for idempotent requests can only be used with the same parameters they"
            " were first used with. Try using a key other than 'k' if you meant to execute a"
            " different request.",
        ),
    ),
    (
        ProblemKind.IDEMPOTENCY_IN_USE,
        ErrorAnswer(
            409,
            "idempotency_error",
            code="idempotency_key_in_use",
            message="There is currently another in-progress request using this Idempotent Key.",
        ),
    ),
    (
        ProblemKind.IDEMPOTENCY_IN_USE,
        ErrorAnswer(
            409,
            "idempotency_error",
            message="There is currently another in-progress request using this Idempotent Key.",
        ),
    ),
    (
        ProblemKind.LOCK_TIMEOUT,
        ErrorAnswer(429, REQUEST, code="lock_timeout", message=LOCKED),
    ),
    *(
        (
            ProblemKind.RATE_LIMITED,
            ErrorAnswer(
                429,
                REQUEST,
                code=code,
                message="Request rate limit exceeded.",
                rate_limited_reason=reason,
            ),
        )
        for reason in (
            "global-rate",
            "global-concurrency",
            "endpoint-rate",
            "endpoint-concurrency",
            "resource-specific",
        )
        for code in ("rate_limit", None)
    ),
    (
        ProblemKind.SERVER_ERROR,
        ErrorAnswer(500, "api_error", message="An unknown error occurred"),
    ),
    (ProblemKind.SERVER_ERROR, ErrorAnswer(503)),
)

FALLBACK_EXAMPLES: tuple[tuple[ProblemKind, ErrorAnswer], ...] = (
    (
        ProblemKind.TIMESTAMP_REFUSED,
        ErrorAnswer(400, REQUEST, param="timestamp", message="A text nobody has seen."),
    ),
    (ProblemKind.PERMISSION_MISSING, ErrorAnswer(403, REQUEST, message="Not for you.")),
    (
        ProblemKind.CONFLICT,
        ErrorAnswer(
            409,
            REQUEST,
            message="There is currently another in-progress request using this Stripe object.",
        ),
    ),
    (ProblemKind.LOCK_TIMEOUT, ErrorAnswer(429, REQUEST, message=LOCKED)),
    (ProblemKind.RATE_LIMITED, ErrorAnswer(429, REQUEST, code="rate_limit")),
    (ProblemKind.RATE_LIMITED, ErrorAnswer(429, REQUEST, rate_limited_reason="brand-new")),
    (ProblemKind.RATE_LIMITED, ErrorAnswer(429)),
)

UNFORESEEN_EXAMPLES = (
    ErrorAnswer(400),
    ErrorAnswer(400, REQUEST, message="Something else is wrong."),
    ErrorAnswer(400, REQUEST, param="subscription_item", message="Something else is wrong."),
    ErrorAnswer(400, REQUEST, param="action", message="Invalid action: must be one of a or b"),
    ErrorAnswer(400, message="because the subscription item is no longer active"),
    ErrorAnswer(402, "card_error", code="card_declined"),
    ErrorAnswer(403, message="permission denied by the web application firewall"),
    ErrorAnswer(404),
    ErrorAnswer(404, message="Unrecognized request URL"),
    ErrorAnswer(404, REQUEST, message="No such page"),
    ErrorAnswer(408),
    ErrorAnswer(409),
    ErrorAnswer(413, REQUEST),
    ErrorAnswer(302),
    ErrorAnswer(600),
)
