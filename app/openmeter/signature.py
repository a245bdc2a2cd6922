"""Who sent it: the Svix signature of a webhook, checked over the raw bytes.

One wrapper around the `svix` package, with one error. The package signs what arrived, as its sender
did; headers are read, and signatures compared, here. Its own `verify` raises at least four kinds of
error on hostile headers and takes each header from either family; this module does neither, and
gives the same verdict.
"""

import base64
import hmac
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from svix.webhooks import Webhook

_SVIX, _WEBHOOK = (
    tuple(f"{family}-{part}".encode() for part in ("id", "timestamp", "signature"))
    for family in ("svix", "webhook")
)
_HEADERS = frozenset(_SVIX + _WEBHOOK)

_MESSAGE_ID = re.compile(rb"[\x21-\x7e]{1,256}")
# Unix seconds. The package reads it as a float and would take `1e9`, ` 1_0 ` and Arabic digits.
_TIMESTAMP = re.compile(rb"[0-9]{1,11}")
# Tokens of `version,signature`, one space between. A rotation signs with a handful of keys, 47
# characters each; the bound keeps a forged header from costing thousands of comparisons.
_TOKEN = rb"[\x21-\x2b\x2d-\x7e]+,[\x21-\x2b\x2d-\x7e]+"
_SIGNATURE = re.compile(rb"%s(?: %s)*" % (_TOKEN, _TOKEN))
_LONGEST_SIGNATURE = 4096
_VERSION = "v1"
_TOLERANCE_SECONDS = 300


class SignatureInvalid(Exception):
    """The message is not signed with one of our secrets. The text is the same for every cause."""

    def __init__(self) -> None:
        super().__init__("the webhook signature is not valid")


@dataclass(frozen=True, slots=True)
class SignedMessage:
    """What the signature vouches for."""

    message_id: str
    """`svix-id`: 1 to 256 printable ASCII characters; the same on every retry and resend."""
    sent_at: datetime
    """`svix-timestamp`: when this attempt was signed, UTC, whole seconds."""


@dataclass(frozen=True, slots=True)
class SignatureHeaders:
    """What a sender claims, well-formed; nothing of it is true before `WebhookVerifier.check`."""

    message: SignedMessage
    signature: str
    """Tokens of `version,signature`, one space between."""


class WebhookVerifier:
    """Checks signatures against one or several secrets (`whsec_<base64>`).

    Several: during a rotation the sender may sign with the old secret, the new one, or both.
    Raises ValueError where there is no secret or one cannot be decoded; it never shows it.
    """

    def __init__(self, secrets: Sequence[str]) -> None:
        if not secrets:
            raise ValueError("a verifier needs at least one secret")
        self._webhooks = tuple(Webhook(_key(secret)) for secret in secrets)

    def examine(self, headers: Iterable[tuple[bytes, bytes]]) -> SignatureHeaders:
        """The signature's headers, well-formed and of a time within five minutes of now.

        All that can be told without the body, so that a forgery is refused before one is read.
        `headers` are the raw header lines (ASGI's `scope["headers"]`), so that a line sent twice
        is seen. Raises SignatureInvalid, and nothing else, whatever the input.
        """
        message_id, timestamp, signature = _signed_headers(headers)
        sent_at = datetime.fromtimestamp(int(timestamp), UTC)
        _require_timely(sent_at)
        return SignatureHeaders(SignedMessage(message_id.decode(), sent_at), signature.decode())

    def verify(self, body: bytes, headers: Iterable[tuple[bytes, bytes]]) -> SignedMessage:
        """`examine` and `check` in one."""
        return self.check(body, self.examine(headers))

    def check(self, body: bytes, given: SignatureHeaders) -> SignedMessage:
        """The id and time of a message that one of the secrets signed.

        Raises SignatureInvalid, and nothing else, whatever the input.
        """
        message = given.message
        _require_timely(message.sent_at)  # once more: the body may have come slowly
        try:
            text = body.decode()
        except UnicodeDecodeError:  # the package signs text
            raise SignatureInvalid from None
        # The package's `verify` would read headers and time again, which was half of its time.
        # Every secret is tried, so that the time taken does not tell which one matched.
        matches = [
            _carries(given.signature, webhook.sign(message.message_id, message.sent_at, text))
            for webhook in self._webhooks
        ]
        if not any(matches):
            raise SignatureInvalid
        return message


def _key(secret: str) -> bytes:
    # Decoded here, and strictly: the package skips characters that are not base64, and a secret
    # with a slip in it would refuse every webhook without a word at start-up.
    prefix, _, encoded = secret.partition("_")
    try:
        key = base64.b64decode(encoded, validate=True)
    except ValueError:
        key = b""
    if prefix != "whsec" or not key:
        raise ValueError("a webhook secret is not whsec_ and base64") from None
    return key


def _signed_headers(headers: Iterable[tuple[bytes, bytes]]) -> Sequence[bytes]:
    """Id, timestamp and signature, well-formed and all of one family."""
    found: dict[bytes, bytes] = {}
    for line, value in headers:
        name = line.lower()
        if name not in _HEADERS:
            continue
        if name in found:
            raise SignatureInvalid
        found[name] = value
    # A mixture is refused even beside a complete family: what is checked must be what is used.
    given = [found[name] for name in (_SVIX if _SVIX[0] in found else _WEBHOOK) if name in found]
    if len(given) != len(_SVIX) or len(found) != len(_SVIX):
        raise SignatureInvalid
    message_id, timestamp, signature = given
    if not (
        _MESSAGE_ID.fullmatch(message_id)
        and _TIMESTAMP.fullmatch(timestamp)
        and len(signature) <= _LONGEST_SIGNATURE
        and _SIGNATURE.fullmatch(signature)
    ):
        raise SignatureInvalid
    return given


def _require_timely(sent_at: datetime) -> None:
    if abs(sent_at.timestamp() - time.time()) > _TOLERANCE_SECONDS:
        raise SignatureInvalid


def _carries(signature: str, expected: str) -> bool:
    """Whether one of the tokens is `expected`; not where one before it is no base64 at all."""
    digest = base64.b64decode(expected.partition(",")[2])
    try:
        for token in signature.split(" "):
            version, _, encoded = token.partition(",")
            if version == _VERSION and hmac.compare_digest(digest, base64.b64decode(encoded)):
                return True
    except ValueError:
        pass
    return False
