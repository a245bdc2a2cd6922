"""Who sent it: the Svix signature of a webhook, checked over the raw bytes.

One wrapper around the `svix` package, with one error. The package raises at least four kinds of
error on hostile headers and takes each header from either family; this module does neither.
"""

import base64
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from svix.webhooks import Webhook, WebhookVerificationError

_PARTS = ("id", "timestamp", "signature")
_FAMILIES = ("svix", "webhook")
_HEADERS = {f"{family}-{part}".encode(): (family, part) for family in _FAMILIES for part in _PARTS}

_MESSAGE_ID = re.compile(r"[\x21-\x7e]{1,256}", re.ASCII)
# Unix seconds. The package reads it as a float and would take `1e9`, ` 1_0 ` and Arabic digits.
_TIMESTAMP = re.compile(r"[0-9]{1,11}", re.ASCII)
# Tokens of `version,signature`, one space between. A rotation signs with a handful of keys, 47
# characters each; the bound keeps a forged header from costing thousands of comparisons.
_SIGNED = r"[\x21-\x2b\x2d-\x7e]+,[\x21-\x2b\x2d-\x7e]+"
_SIGNATURE = re.compile(f"{_SIGNED}(?: {_SIGNED})*", re.ASCII)
_LONGEST_SIGNATURE = 4096
# The package's own, which it applies once more.
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
    """What a sender claims; nothing of it is true before `WebhookVerifier.check`."""

    values: dict[str, str]
    """`svix-id`, `svix-timestamp`, `svix-signature`, well-formed."""


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
        given = _signed_headers(headers)
        if abs(int(given["svix-timestamp"]) - time.time()) > _TOLERANCE_SECONDS:
            raise SignatureInvalid
        return SignatureHeaders(given)

    def verify(self, body: bytes, headers: Iterable[tuple[bytes, bytes]]) -> SignedMessage:
        """`examine` and `check` in one."""
        return self.check(body, self.examine(headers))

    def check(self, body: bytes, given: SignatureHeaders) -> SignedMessage:
        """The id and time of a message that one of the secrets signed.

        Raises SignatureInvalid, and nothing else, whatever the input.
        """
        # Every secret is tried, so that the time taken does not tell which one matched.
        matches = [_matches(webhook, body, given.values) for webhook in self._webhooks]
        if not any(matches):
            raise SignatureInvalid
        return SignedMessage(
            message_id=given.values["svix-id"],
            sent_at=datetime.fromtimestamp(int(given.values["svix-timestamp"]), UTC),
        )


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


def _signed_headers(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """The three headers under their svix names, well-formed and all of one family."""
    found: dict[tuple[str, str], str] = {}
    for name, value in headers:
        key = _HEADERS.get(name.lower())
        if key is None:
            continue
        if key in found:
            raise SignatureInvalid
        found[key] = value.decode("latin-1")
    families = {family for family, _ in found}
    # A mixture is refused even beside a complete family: the package would take id, time and
    # signature each from where it finds it, and what was checked would not be what is used.
    if len(families) != 1 or len(found) != len(_PARTS):
        raise SignatureInvalid
    given = {part: value for (_, part), value in found.items()}
    if not (
        _MESSAGE_ID.fullmatch(given["id"])
        and _TIMESTAMP.fullmatch(given["timestamp"])
        and len(given["signature"]) <= _LONGEST_SIGNATURE
        and _SIGNATURE.fullmatch(given["signature"])
    ):
        raise SignatureInvalid
    return {f"svix-{part}": given[part] for part in _PARTS}


def _matches(webhook: Webhook, body: bytes, headers: dict[str, str]) -> bool:
    try:
        webhook.verify(body, headers)
    except (WebhookVerificationError, ValueError):
        # ValueError is also binascii.Error (signature not base64) and UnicodeDecodeError (the
        # package signs text, so a body that is not UTF-8 cannot be checked).
        return False
    return True
