"""Signatures: what is accepted, and the one refusal for all else."""

import base64
import hashlib
import hmac
from datetime import UTC, datetime, timedelta

import pytest
import time_machine
from hypothesis import given
from hypothesis import strategies as st
from svix.webhooks import Webhook, WebhookVerificationError

from app.openmeter.signature import SignatureInvalid, SignedMessage, WebhookVerifier

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
KEY, OTHER_KEY = b"k" * 32, b"o" * 32
BODY = b'{"type":"report.meter"}'
ID = "msg_2KWPBgLlAfxdpx2AI54pPJ85f4W"


def secret(key: bytes) -> str:
    return "whsec_" + base64.b64encode(key).decode()


def signature(
    body: bytes = BODY, *, key: bytes = KEY, message_id: str = ID, at: datetime = NOW
) -> str:
    """Written out by hand, so that the test does not ask the package under test."""
    signed = f"{message_id}.{int(at.timestamp())}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()


def headers(family: str = "svix", **parts: str | bytes | None) -> list[tuple[bytes, bytes]]:
    whole = {"id": ID, "timestamp": str(int(NOW.timestamp())), "signature": signature(), **parts}
    return [
        (f"{family}-{name}".encode(), value if isinstance(value, bytes) else value.encode())
        for name, value in whole.items()
        if value is not None
    ]


@pytest.fixture(autouse=True)
def _now() -> object:
    with time_machine.travel(NOW, tick=False):
        yield


verifier = WebhookVerifier([secret(KEY)])
GOOD = signature()

ACCEPTED = {
    "svix family": headers(),
    "webhook family": headers("webhook"),
    "upper-case names": [(name.upper(), value) for name, value in headers()],
    "strangers beside it": [*headers(), (b"webhook-source", b"x"), (b"host", b"\xff")],
    "another key's token first": headers(signature=f"{signature(key=OTHER_KEY)} {GOOD}"),
    "unknown versions are skipped": headers(signature=f"v1a,abc v2,xyz {GOOD}"),
    "longest id": headers(id="m" * 256, signature=signature(message_id="m" * 256)),
}


@pytest.mark.parametrize("given_headers", ACCEPTED.values(), ids=ACCEPTED)
def test_accepted(given_headers: list[tuple[bytes, bytes]]) -> None:
    found = verifier.verify(BODY, given_headers)
    assert found.sent_at == NOW
    assert found.message_id in (ID, "m" * 256)


def test_what_is_vouched_for() -> None:
    at = NOW - timedelta(seconds=7)
    lines = headers(
        id="x", timestamp=str(int(at.timestamp())), signature=signature(message_id="x", at=at)
    )
    assert verifier.verify(BODY, lines) == SignedMessage("x", at)


def signed_as(message_id: str) -> list[tuple[bytes, bytes]]:
    """Rightly signed, so that only the id can be the reason."""
    return headers(id=message_id, signature=signature(message_id=message_id))


def stamped(text: str) -> list[tuple[bytes, bytes]]:
    return headers(timestamp=text)


STAMP = str(int(NOW.timestamp()))
REFUSED = {
    "none": [],
    "no id": headers(id=None),
    "no timestamp": headers(timestamp=None),
    "no signature": headers(signature=None),
    "empty id": signed_as(""),
    "id with a space": signed_as("a b"),
    "id with NUL": signed_as("a\0b"),
    "id of 257": signed_as("m" * 257),
    "id not ASCII": signed_as("m\u00e9"),
    "id in latin-1": headers(id=b"m\xe9"),
    "timestamp with a fraction": stamped(f"{STAMP}.0"),
    "timestamp with an exponent": stamped("1772366400e0"),
    "timestamp with underscores": stamped(f"{STAMP[:3]}_{STAMP[3:]}"),
    "timestamp with a space": stamped(f" {STAMP}"),
    "timestamp with a line end": stamped(f"{STAMP}\n"),
    "timestamp with a sign": stamped(f"+{STAMP}"),
    "timestamp in Arabic digits": headers(
        timestamp=STAMP.translate({ord("0") + n: 0x660 + n for n in range(10)}).encode()
    ),
    "timestamp nan": stamped("nan"),
    "timestamp huge": stamped("9" * 400),
    "timestamp of eleven nines": stamped("9" * 11),
    "timestamp empty": stamped(""),
    "signature empty": headers(signature=""),
    "signature without a comma": headers(signature="v1"),
    "a bad token before the good": headers(signature=f"v1 {GOOD}"),
    "a bad token after the good": headers(signature=f"{GOOD} v1"),
    "two commas": headers(signature=f"v1,a,b {GOOD}"),
    "two spaces": headers(signature=f"{GOOD}  {GOOD}"),
    "trailing space": headers(signature=f"{GOOD} "),
    "not base64": headers(signature="v1,%%%"),
    "bad padding": headers(signature="v1,abcde"),
    "not base64, then good": headers(signature=f"v1,abcde {GOOD}"),
    "right but of another version": headers(signature=GOOD.replace("v1,", "v2,")),
    "signature in latin-1": headers(signature=b"v1,\xe9"),
    "signature with NUL": headers(signature=f"{GOOD}\0"),
    "signature too long": headers(signature=" ".join(["v2,x"] * 1100) + f" {GOOD}"),
    "another key": headers(signature=signature(key=OTHER_KEY)),
    "another body": headers(signature=signature(b"{}")),
    "another id": headers(signature=signature(message_id="msg_2")),
    "another time": headers(signature=signature(at=NOW - timedelta(seconds=1))),
    "truncated": headers(signature=GOOD[:-2]),
    "id twice": [*headers(), (b"svix-id", ID.encode())],
    "id twice in two cases": [*headers(), (b"Svix-Id", ID.encode())],
    "both families": [*headers(), *headers("webhook")],
    "a stray of the other family": [*headers(), (b"webhook-id", ID.encode())],
    "an empty stray of the other family": [*headers(), (b"webhook-signature", b"")],
    "half and half": [*headers(signature=None), (b"webhook-signature", GOOD.encode())],
}


@pytest.mark.parametrize("given_headers", REFUSED.values(), ids=REFUSED)
def test_refused(given_headers: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(SignatureInvalid) as caught:
        verifier.verify(BODY, given_headers)
    assert str(caught.value) == "the webhook signature is not valid"


def test_a_body_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(SignatureInvalid):
        verifier.verify(b"\xff", headers(signature=signature(b"\xff")))


@pytest.mark.parametrize(
    ("off", "accepted"), [(-300, True), (-301, False), (300, True), (301, False), (0, True)]
)
def test_tolerance_is_five_minutes_either_way(off: int, accepted: bool) -> None:
    at = NOW + timedelta(seconds=off)
    lines = headers(timestamp=str(int(at.timestamp())), signature=signature(at=at))
    if accepted:
        assert verifier.verify(BODY, lines).sent_at == at
    else:
        with pytest.raises(SignatureInvalid):
            verifier.verify(BODY, lines)


@pytest.mark.parametrize("key", [KEY, OTHER_KEY])
def test_rotation_accepts_either_secret(key: bytes) -> None:
    both = WebhookVerifier([secret(KEY), secret(OTHER_KEY)])
    assert both.verify(BODY, headers(signature=signature(key=key))).message_id == ID


@pytest.mark.parametrize("wrong", ["", "whsec_", "whsec_!", "whsec_=", "sk_abcd", "whsec_AA*A"])
def test_a_secret_that_cannot_be_decoded_is_refused_unseen(wrong: str) -> None:
    with pytest.raises(ValueError, match="whsec_ and base64") as caught:
        WebhookVerifier([secret(KEY), wrong])
    assert "AA*A" not in str(caught.value)


def test_a_verifier_without_secrets_cannot_be_built() -> None:
    with pytest.raises(ValueError, match="at least one"):
        WebhookVerifier([])


ENCODED = GOOD.removeprefix("v1,")
TOKENS = st.sampled_from(
    [
        GOOD,
        signature(key=OTHER_KEY),
        f"v2,{ENCODED}",
        f"v1a,{ENCODED}",
        f"v1,{ENCODED[:-1]}",
        f"v1,{ENCODED}=",
        f"v1,={ENCODED}",
        f"v1,%{ENCODED}%",
        f"v1,{ENCODED[:20]}=={ENCODED[20:]}",
        f"v1,{ENCODED.swapcase()}",
        "v1,abcde",
        "v2,abcde",
        "v1,%",
    ]
)


@given(st.lists(TOKENS, min_size=1, max_size=4), st.sampled_from([(KEY,), (OTHER_KEY, KEY)]))
def test_the_verdict_is_that_of_the_package(tokens: list[str], keys: tuple[bytes, ...]) -> None:
    written = " ".join(tokens)
    lines = {name.decode(): value.decode() for name, value in headers(signature=written)}
    verdicts = []
    for key in keys:
        try:
            Webhook(secret(key)).verify(BODY, lines)
            verdicts.append(True)
        except (WebhookVerificationError, ValueError):
            verdicts.append(False)
    try:
        WebhookVerifier([secret(key) for key in keys]).verify(BODY, headers(signature=written))
        ours = True
    except SignatureInvalid:
        ours = False
    assert ours == any(verdicts)


NAMES = st.sampled_from(
    [f"{family}-{part}".encode() for family in ("svix", "webhook") for part in ("id", "timestamp")]
    + [b"svix-signature", b"Webhook-Signature"]
)


@given(st.binary(max_size=64), st.lists(st.tuples(NAMES, st.binary(max_size=64)), max_size=6))
def test_whatever_comes_only_the_one_error(body: bytes, lines: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(SignatureInvalid):
        verifier.verify(body, lines)


@given(st.text(max_size=40), st.integers(0, 10**12), st.text(max_size=120))
def test_well_placed_nonsense_is_refused_too(message_id: str, stamp: int, tokens: str) -> None:
    lines = headers(
        id=message_id.encode("utf-8", "surrogatepass"),
        timestamp=str(stamp),
        signature=tokens.encode("utf-8", "surrogatepass"),
    )
    with pytest.raises(SignatureInvalid):
        verifier.verify(BODY, lines)
