"""Test webhooks: a `report.meter` message as OpenMeter writes it, signed as Svix signs it."""

import http.client
import json
import secrets
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal

from svix.webhooks import Webhook

_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_KSUID_EPOCH = 1_400_000_000
# What waits for longer is not an answer: the sender of real webhooks gives up after 15 s, too.
ANSWER_TIMEOUT = 15.0


@dataclass(frozen=True, slots=True)
class OutgoingWindow:
    """One entry of `usage[]`. `value` goes out digit by digit as it is written."""

    value: Decimal
    window_start: datetime
    window_end: datetime
    group_by: Mapping[str, str] = field(default_factory=dict)


def message_id(at: float | None = None) -> str:
    """A new `svix-id`: `msg_` and a KSUID, which holds its creation time in 4 ms steps."""
    now = time.time() if at is None else at
    seconds = int(now)
    steps = int((now - seconds) * 250)
    number = int.from_bytes(
        (seconds - _KSUID_EPOCH).to_bytes(4, "big") + bytes([steps]) + secrets.token_bytes(15)
    )
    digits = []
    for _ in range(27):
        number, digit = divmod(number, 62)
        digits.append(_BASE62[digit])
    return "msg_" + "".join(reversed(digits))


def report_body(
    *, meter: str, subject: str, windows: Sequence[OutgoingWindow], aggregation: str = "SUM"
) -> bytes:
    """The raw body of a usage report."""

    def at(moment: datetime) -> str:
        return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")

    # The digits go in as they are written: json.dumps knows no Decimal, and a float is not exact.
    mark = f"value-{secrets.token_hex(8)}"
    groups = sorted({name for window in windows for name in window.group_by})
    entries = [
        json.dumps(
            {
                "subject": subject,
                "value": mark,
                "groupBy": dict(window.group_by),
                "windowStart": at(window.window_start),
                "windowEnd": at(window.window_end),
            }
        ).replace(f'"{mark}"', str(window.value))
        for window in windows
    ]
    head = {
        "type": "report.meter",
        "report": {"slug": f"{meter}_report"},
        "query": {
            "from": at(min(window.window_start for window in windows)),
            "to": at(max(window.window_end for window in windows)),
            "subject": subject,
            "groupBy": groups,
        },
        "meter": {
            "id": "01H98E5HHJ8K0AYXQKM3EKAVYG",
            "slug": meter,
            "aggregation": aggregation,
            "eventType": meter,
            "valueProperty": "$.value",
            "groupBy": {name: f"$.{name}" for name in groups},
        },
    }
    return (json.dumps(head)[:-1] + ', "usage": [' + ", ".join(entries) + "]}").encode()


def signed_headers(secret: str, svix_id: str, body: bytes) -> dict[str, str]:
    """The headers of one attempt to deliver a body, signed now."""
    now = datetime.now(UTC)
    return {
        "Content-Type": "application/json",
        "User-Agent": "meterbridge-send",
        "svix-id": svix_id,
        "svix-timestamp": str(int(now.timestamp())),
        "svix-signature": Webhook(secret).sign(svix_id, now, body.decode()),
    }


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """For Svix a redirect is a failed delivery, so it is one here."""

    def redirect_request(self, *_: object, **__: object) -> None:
        """Follow none."""


def post(url: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, str]:
    """POST a body; returns status and text. Raises OSError where nobody answers in HTTP."""
    # No proxy of the environment: the endpoint is often on this very machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect)
    request = urllib.request.Request(url, data=body, headers=dict(headers), method="POST")  # noqa: S310 - the operator names the address
    try:
        with opener.open(request, timeout=ANSWER_TIMEOUT) as answer:
            return answer.status, answer.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode(errors="replace")
    except http.client.HTTPException as error:
        raise OSError(f"it does not speak HTTP ({type(error).__name__})") from None
