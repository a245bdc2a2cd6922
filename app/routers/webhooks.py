"""Step 1, receive: `POST /webhooks/openmeter`.

    configured? -> small enough? -> headers of a signature? -> signed? -> readable? -> stored

The body is not read before the headers can be those of a signature, and nothing is parsed, looked
up or stored before the signature is right. No 2xx goes out before the delivery is committed: the
commit happens inside `Inbox.accept`, not after the answer.
"""

from collections import Counter
from collections.abc import Sequence
from http import HTTPStatus
from typing import Literal, Protocol, cast

import structlog
from fastapi import APIRouter, Request, Response, Security
from fastapi.security import APIKeyHeader
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.types import Receive

from app.clock import Clock
from app.errors import (
    BodyTooLarge,
    DatabaseUnavailable,
    DeliveryConflict,
    Fault,
    InvalidReport,
    NotConfigured,
    Overloaded,
    SignatureRefused,
    UnknownEventType,
)
from app.inbox.arriving import ArrivingBodies
from app.inbox.delivery import Delivery, Receipt
from app.inbox.writer import Inbox
from app.observability.refusals import RefusalLog
from app.openmeter.message_time import message_time
from app.openmeter.report import InvalidMessage, UnknownType, is_report
from app.openmeter.signature import SignatureInvalid, SignedMessage, WebhookVerifier
from app.routers.body import check_length, read_body
from app.routers.problems import responses
from app.routers.webhook_document import WEBHOOK_DOCUMENT

log = structlog.get_logger(__name__)

# Svix sends up to about 350 kB; some seven thousand windows of the usual length are 1 MiB.
MAX_BODY_BYTES = 1024 * 1024
# A real sender needs well under one; it gives up by itself after 15.
MAX_BODY_SECONDS = 10.0


class WebhookServices(Protocol):
    """What this route needs of `app.state.services`."""

    @property
    def verifier(self) -> WebhookVerifier | None:
        """None: no signing secret is configured."""

    @property
    def inbox(self) -> Inbox:
        """Open for deliveries."""

    @property
    def clock(self) -> Clock:
        """When a delivery was received."""

    @property
    def counters(self) -> Counter[str]:
        """Outcomes since the start: `webhook_accepted`, `webhook_signature_refused`, …"""

    @property
    def arriving(self) -> ArrivingBodies:
        """Memory for bodies whose sender is not known yet."""

    @property
    def refusals(self) -> RefusalLog:
        """Where forgeries are told."""


class WebhookAnswer(BaseModel):
    """What became of the message. All three are final: it need not be sent again."""

    status: Literal["accepted", "duplicate", "ignored"]


# Documentation only: the verifier reads the raw headers itself.
_SIGNATURE_SCHEME = APIKeyHeader(
    name="svix-signature",
    scheme_name="WebhookSignature",
    description="Svix's signature over `svix-id`, `svix-timestamp` and the raw body "
    "(HMAC-SHA256), with one of OPENMETER_WEBHOOK_SECRETS. `webhook-*` headers are read as well.",
    auto_error=False,
)

PATH = "/webhooks/openmeter"
# Of its own: a redirect is a failed delivery for the sender.
PATHS = frozenset({PATH, PATH + "/"})

router = APIRouter(tags=["Webhooks"])


@router.post(
    PATH,
    status_code=HTTPStatus.ACCEPTED,
    response_model=WebhookAnswer,
    dependencies=[Security(_SIGNATURE_SCHEME)],
    summary="Receive a message of OpenMeter",
    operation_id="receiveOpenMeterMessage",
    openapi_extra=WEBHOOK_DOCUMENT,
    responses={
        202: {
            "description": "Stored, and on its way; or of a type that needs nothing done.",
            "content": {
                "application/json": {
                    "examples": {
                        "accepted": {"value": {"status": "accepted"}},
                        "ignored": {"value": {"status": "ignored"}},
                    }
                }
            },
        },
        200: {
            "model": WebhookAnswer,
            "description": "This message id was stored before.",
            "content": {"application/json": {"example": {"status": "duplicate"}}},
        },
        **responses(
            UnknownEventType,
            SignatureRefused,
            408,
            DeliveryConflict,
            BodyTooLarge,
            415,
            InvalidReport,
            DatabaseUnavailable,
            NotConfigured,
            Overloaded,
        ),
    },
)
@router.post(PATH + "/", include_in_schema=False)
async def receive(request: Request) -> Response:
    """Takes usage reports (`report.meter`), each message id once, however often it is sent.

    Messages of types `entitlements.*` and `invoice.*` are acknowledged and ignored. A report that
    cannot be read is kept; sending it again goes through once it can.
    """
    services = cast(WebhookServices, request.app.state.services)
    return await receive_message(services, request.scope["headers"], request.receive)


async def receive_message(
    services: WebhookServices, headers: Sequence[tuple[bytes, bytes]], receive: Receive
) -> Response:
    """Step 1 for one request, given its raw header lines. The errors are those of the route."""
    if services.verifier is None:
        raise NotConfigured
    plain = dict(headers)
    # The signature is over the bytes as sent; and unpacking is how small bodies become large.
    if plain.get(b"content-encoding", b"").strip().lower() not in (b"", b"identity"):
        raise HTTPException(HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
    check_length(plain.get(b"content-length", b""), limit=MAX_BODY_BYTES)
    try:
        claimed = services.verifier.examine(headers)
        body = await read_body(
            receive,
            limit=MAX_BODY_BYTES,
            seconds=MAX_BODY_SECONDS,
            room=services.arriving,
        )
        message = services.verifier.check(body, claimed)
    except SignatureInvalid:
        services.counters["webhook_signature_refused"] += 1
        services.refusals.note("webhook_signature_refused")
        raise SignatureRefused from None
    return await _take(services, message, body)


async def _take(services: WebhookServices, message: SignedMessage, body: bytes) -> Response:
    faults: tuple[Fault, ...] | None = None
    try:
        if not is_report(body):
            services.counters["webhook_ignored"] += 1
            return _IGNORED
    except UnknownType:
        services.counters["webhook_unknown_type"] += 1
        log.warning("webhook_unknown_type", svix_id=message.message_id)
        raise UnknownEventType from None
    except InvalidMessage as error:
        faults = tuple(Fault(path, text) for path, text in error.faults)
    receipt = await services.inbox.accept(
        Delivery.of(
            message.message_id,
            body,
            message_at=message_time(message.message_id, message.sent_at),
            received_at=services.clock.now(),
            faults=faults,
        )
    )
    services.counters[f"webhook_{receipt}"] += 1
    if receipt is Receipt.REJECTED:
        log.warning(
            "delivery_rejected",
            svix_id=message.message_id,
            faults=[f"{fault.path}: {fault.message}" for fault in faults or ()],
        )
        raise InvalidReport(faults=faults or ())
    if receipt is Receipt.CONFLICT:
        # An alarm: the sender broke its promise, or somebody else holds a signing secret.
        log.error("delivery_conflict", svix_id=message.message_id)
        raise DeliveryConflict
    return _TAKEN[receipt]


def _answer(status: HTTPStatus, text: str) -> Response:
    return Response(f'{{"status":"{text}"}}', status_code=status, media_type="application/json")


# Made once: each is sent thousands of times a second, and none is ever changed.
_TAKEN = {
    Receipt.ACCEPTED: _answer(HTTPStatus.ACCEPTED, Receipt.ACCEPTED.value),
    Receipt.DUPLICATE: _answer(HTTPStatus.OK, Receipt.DUPLICATE.value),
}
_IGNORED = _answer(HTTPStatus.ACCEPTED, "ignored")
