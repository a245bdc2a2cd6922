"""Stripe's error answers, those of usage records excepted (`usage_refusals`).

The wording is Stripe's own where clients match on it. Where Stripe's wording is not known it is
ours; docs/sandbox.md lists which.
"""

import json

from app.sandbox.wire import JSON, Answer, Headers

INVALID_REQUEST = "invalid_request_error"
IDEMPOTENCY = "idempotency_error"
API_ERROR = "api_error"
_SHOULD_RETRY = ((b"stripe-should-retry", b"true"),)
_SHOULD_NOT_RETRY = ((b"stripe-should-retry", b"false"),)
_DOCS = "Please see https://stripe.com/docs or we can help at https://support.stripe.com/."


class StripeError(Exception):
    """An error answer of the API: HTTP status, the members of `error`, extra headers."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = INVALID_REQUEST,
        code: str | None = None,
        param: str | None = None,
        headers: Headers = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.code = code
        self.param = param
        self.headers = headers

    def body(self, request_id: str) -> dict[str, object]:
        """The JSON body, in Stripe's shape."""
        error: dict[str, object] = {"message": self.message, "type": self.kind}
        if self.code is not None:
            error["code"] = self.code
            error["doc_url"] = f"https://stripe.com/docs/error-codes/{self.code.replace('_', '-')}"
        if self.param is not None:
            error["param"] = self.param
        error["request_log_url"] = f"https://dashboard.stripe.com/test/logs/{request_id}"
        return {"error": error}

    def answer(self, request_id: str) -> Answer:
        """The whole answer."""
        body = json.dumps(self.body(request_id), indent=2).encode()
        return Answer(self.status, body, (JSON, *self.headers))


def no_api_key() -> StripeError:
    """401: no key was sent."""
    return StripeError(
        401,
        "You did not provide an API key. You need to provide your API key in the Authorization "
        "header, using Bearer auth (e.g. 'Authorization: Bearer YOUR_SECRET_KEY'). See "
        "https://stripe.com/docs/api#authentication for details, or we can help at "
        "https://support.stripe.com/.",
        headers=((b"www-authenticate", b'Bearer realm="Stripe"'),),
    )


def invalid_api_key(redacted: str) -> StripeError:
    """401: a key that the account does not have."""
    return StripeError(
        401,
        f"Invalid API Key provided: {redacted}",
        headers=((b"www-authenticate", b'Bearer realm="Stripe"'),),
    )


def missing_permission(redacted: str, account: str, permission: str) -> StripeError:
    """403: a restricted key without the permission that the operation needs."""
    return StripeError(
        403,
        f"The provided key '{redacted}' does not have the required permissions for this endpoint "
        f"on account '{account}'. Having the '{permission}' permission would allow this request "
        "to continue.",
    )


def unknown_account(redacted: str, account: str) -> StripeError:
    """403: `Stripe-Account` names an account that is not connected."""
    return StripeError(
        403,
        f"The provided key '{redacted}' does not have access to account '{account}' (or that "
        "account does not exist). Application access may have been revoked.",
        code="account_invalid",
    )


def invalid_version(version: str) -> StripeError:
    """400: `Stripe-Version` is not a version."""
    return StripeError(400, f"Invalid Stripe API version: {version}")


def unrecognized_url(method: str, path: str) -> StripeError:
    """404: no such endpoint, or none in this version."""
    return StripeError(404, f"Unrecognized request URL ({method}: {path}). {_DOCS}")


def not_a_form() -> StripeError:
    """400: the body is not form encoded."""
    return StripeError(
        400,
        "Invalid request (check that your POST content type is "
        "application/x-www-form-urlencoded). If you have any questions, we can help at "
        "https://support.stripe.com/.",
    )


def no_such(noun: str, identifier: str, param: str, *, status: int = 404) -> StripeError:
    """404 for an id in the path, 400 for one among the parameters."""
    return StripeError(
        status, f"No such {noun}: '{identifier}'", code="resource_missing", param=param
    )


def unknown_parameters(names: list[str]) -> StripeError:
    """400: parameters that the endpoint does not have."""
    plural = "s" if len(names) > 1 else ""
    return StripeError(
        400,
        f"Received unknown parameter{plural}: {', '.join(names)}",
        code="parameter_unknown",
        param=names[0],
    )


def missing_parameter(name: str) -> StripeError:
    """400: a parameter that must be there is not."""
    return StripeError(
        400, f"Missing required param: {name}.", code="parameter_missing", param=name
    )


def empty_parameter(name: str) -> StripeError:
    """400: an empty string where a value must stand."""
    return StripeError(
        400,
        f"You passed an empty string for '{name}'. We assume empty values are an attempt to unset "
        f"a parameter; however '{name}' cannot be unset. You should remove '{name}' from your "
        "request or supply a non-empty value.",
        code="parameter_invalid_empty",
        param=name,
    )


def invalid_integer(name: str, value: str) -> StripeError:
    """400: not written as a whole number."""
    return StripeError(
        400, f"Invalid integer: {value}", code="parameter_invalid_integer", param=name
    )


def out_of_bounds(name: str, value: int, bound: int, *, least: bool) -> StripeError:
    """400: a whole number below the least (`least`) or above the greatest allowed value."""
    relation = "greater" if least else "less"
    return StripeError(
        400,
        f"This value must be {relation} than or equal to {bound} (it currently is '{value}').",
        code="parameter_invalid_integer",
        param=name,
    )


def invalid_value(name: str, message: str) -> StripeError:
    """400: any other value that the parameter cannot have."""
    return StripeError(400, message, param=name)


def key_too_long(length: int) -> StripeError:
    """400: an idempotency key of more than 255 characters."""
    return StripeError(
        400,
        f"Idempotency keys can be at most 255 characters long (yours has {length}).",
        kind=IDEMPOTENCY,
    )


def key_with_other_parameters(key: str) -> StripeError:
    """400: the key was first used with other parameters."""
    return StripeError(
        400,
        "Keys for idempotent requests can only be used with the same parameters they were first "
        f"used with. Try using a key other than '{key}' if you meant to execute a different "
        "request.",
        kind=IDEMPOTENCY,
    )


def key_with_other_endpoint(key: str, path: str, first_path: str) -> StripeError:
    """400: the key was first used at another URL."""
    return StripeError(
        400,
        "Keys for idempotent requests can only be used for the same endpoint they were first used "
        f"for ('{path}' vs '{first_path}'). Try using a key other than '{key}' if you meant to "
        "execute a different request.",
        kind=IDEMPOTENCY,
    )


def key_in_use(key: str) -> StripeError:
    """409: the first request with the key has not been answered yet."""
    return StripeError(
        409,
        "There is currently another in-progress request using this Idempotent Key (that probably "
        f"means you submitted twice, and the other request is still going through): {key}. "
        "Please try again in a bit.",
        kind=IDEMPOTENCY,
        code="idempotency_key_in_use",
        headers=_SHOULD_RETRY,
    )


def rate_limited(reason: str) -> StripeError:
    """429 of one of the limiters, named in `Stripe-Rate-Limited-Reason`."""
    return StripeError(
        429,
        "Request rate limit exceeded. Learn more about rate limits here "
        "https://stripe.com/docs/rate-limits.",
        code="rate_limit",
        headers=((b"stripe-rate-limited-reason", reason.encode()),),
    )


def lock_timeout() -> StripeError:
    """429 without the limiters' header: another write holds the object."""
    return StripeError(
        429,
        "This object cannot be accessed right now because another API request or Stripe process "
        "is currently accessing it. If you see this error intermittently, retry the request. If "
        "you see this error frequently and are making multiple concurrent requests to a single "
        "object, make your requests serially or at a lower rate. For more details, see "
        "https://stripe.com/docs/rate-limits#object-lock-timeouts.",
        code="lock_timeout",
        headers=_SHOULD_RETRY,
    )


def server_error(status: int = 500) -> StripeError:
    """5xx: Stripe's own failure, advised against a retry under the same key."""
    return StripeError(
        status,
        "An unknown error occurred. Please contact us at https://support.stripe.com/.",
        kind=API_ERROR,
        headers=_SHOULD_NOT_RETRY,
    )
