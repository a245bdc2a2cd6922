"""The error tree.

Every class answers three questions: which status the edge gives it, which stable `type` names it,
and what the reader can do next. The edge (`app.routers.problems`) maps the tree to
`application/problem+json` (RFC 9457); nothing else turns errors into answers.

    MeterbridgeError
    ├── SettingsError                  a setting is wrong or missing: the program does not start
    ├── SchemaBehind                   the database needs `meterbridge migrate`
    ├── DatabaseUnavailable   503      try again; nothing was changed
    │   └── StatementTimeout  503      the same, of a statement that took too long
    ├── Overloaded            503      the inbox is full; try again
    ├── NotConfigured         503      a secret or token that this route needs is not set
    ├── Unauthorized          401      no or wrong admin token
    ├── SignatureRefused      401      the webhook is not signed with one of our secrets
    ├── BodyTooLarge          413      the webhook is over the cap
    ├── UnknownEventType      400      a type nobody promised to send
    ├── InvalidReport         422      a signed body that is no usage report; kept as rejected
    ├── DeliveryConflict      409      a `svix-id` came again with another body
    ├── InvalidRequest        422      parameters or a body that a route cannot take
    ├── InvalidMapping        422      a mapping file or request that cannot be applied
    ├── MovesBilledUsage      409      a mapping would move usage that cannot come down at Stripe
    └── NotFound              404      no such thing
"""

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong in an input: where (a path like `usage[3].value`) and what."""

    path: str
    message: str


class MeterbridgeError(Exception):
    """The root. `str(error)` is safe to show: it never holds a secret or a piece of the input."""

    status: ClassVar[int] = 500
    slug: ClassVar[str] = "internal"
    title: ClassVar[str] = "Internal error"
    retry_after: ClassVar[int | None] = None

    def __init__(self, detail: str = "", *, faults: tuple[Fault, ...] = ()) -> None:
        super().__init__(detail or self.title)
        self.detail = detail or self.title
        self.faults = faults


class SettingsError(MeterbridgeError):
    """A setting is wrong or missing; the message is one line that names it."""

    slug = "settings"
    title = "A setting is wrong or missing"


class SchemaBehind(MeterbridgeError):
    """The database's schema is not at head; the message names the command to run."""

    slug = "schema-behind"
    title = "The database schema is behind"


class DatabaseUnavailable(MeterbridgeError):
    """The database did not answer; nothing was changed."""

    status = 503
    slug = "database-unavailable"
    title = "The database is not available"
    retry_after = 5


class StatementTimeout(DatabaseUnavailable):
    """A statement took longer than it may; nothing was changed.

    The database may be slow for the moment, or the statement always: whoever has neighbours to
    think of must not try the same for ever.
    """


class Overloaded(MeterbridgeError):
    """More deliveries are waiting for their commit than the inbox holds."""

    status = 503
    slug = "overloaded"
    title = "Too many deliveries at once; try again"
    retry_after = 5


class NotConfigured(MeterbridgeError):
    """The route needs a secret or token that is not set."""

    status = 503
    slug = "not-configured"
    title = "This endpoint is not configured"
    retry_after = 60


class Unauthorized(MeterbridgeError):
    """No admin token, or a wrong one."""

    status = 401
    slug = "unauthorized"
    title = "A valid bearer token is needed"


class SignatureRefused(MeterbridgeError):
    """The one answer to every failure of a signature, however malformed."""

    status = 401
    slug = "signature-refused"
    title = "The webhook signature was refused"


class BodyTooLarge(MeterbridgeError):
    """The body is over the cap."""

    status = 413
    slug = "body-too-large"
    title = "The body is too large"


class UnknownEventType(MeterbridgeError):
    """A signed message of a type that is none of OpenMeter's."""

    status = 400
    slug = "unknown-event-type"
    title = "Unknown event type"


class InvalidReport(MeterbridgeError):
    """A signed body that is not a usage report; `faults` say where."""

    status = 422
    slug = "invalid-report"
    title = "The body is not a valid usage report"


class DeliveryConflict(MeterbridgeError):
    """The same message id came with another body; the first one stays."""

    status = 409
    slug = "delivery-conflict"
    title = "This message id was used before with another body"


class InvalidRequest(MeterbridgeError):
    """Parameters or a body that a route cannot take; `faults` say where. Nothing was changed."""

    status = 422
    slug = "invalid-request"
    title = "The request is not valid"


class InvalidMapping(MeterbridgeError):
    """A mapping that cannot be applied; `faults` say where. Nothing was changed."""

    status = 422
    slug = "invalid-mapping"
    title = "The mapping cannot be applied"


class MovesBilledUsage(MeterbridgeError):
    """Mappings that move what cannot come down at Stripe; `faults` say what. Nothing was changed.

    They can be applied by force.
    """

    status = 409
    slug = "mapping-moves-billed-usage"
    title = "The mapping moves usage that is billed already"


class NotFound(MeterbridgeError):
    """No such thing."""

    status = 404
    slug = "not-found"
    title = "Not found"
