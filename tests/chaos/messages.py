"""Webhooks on the wire: OpenMeter's body, Svix's id and signature. Written from their descriptions,
and not with the program's own code."""

import base64
import hashlib
import hmac
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from tests.chaos.account import Order
from tests.chaos.usage import Report

_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_KSUID_EPOCH = 1_400_000_000
STEPS_A_SECOND = 250


@dataclass(frozen=True, slots=True)
class Message:
    """One webhook: a body under one id, however often it is sent."""

    order: Order
    body: bytes
    report: Report

    @property
    def svix_id(self) -> str:
        """The id, the same for every attempt."""
        return self.order.svix_id


class Post:
    """Makes messages: each is newer than all before it, by the time inside its id."""

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice
        self._steps = 0

    def message(self, report: Report) -> Message:
        """A message that is made now."""
        self._steps = max(self._steps + 1, int(time.time() * STEPS_A_SECOND))
        order = Order(self._steps, _ksuid(self._steps, self._dice))
        return Message(order, _body(report), report)


def new_secret(dice: random.Random) -> str:
    """A signing secret."""
    return "whsec_" + base64.b64encode(dice.randbytes(32)).decode()


def headers(message: Message, secrets: Sequence[str]) -> dict[str, str]:
    """Of one attempt that is made now, signed with each of the secrets."""
    at = str(int(time.time()))
    signed = f"{message.svix_id}.{at}.".encode() + message.body
    return {
        "content-type": "application/json",
        "svix-id": message.svix_id,
        "svix-timestamp": at,
        "svix-signature": " ".join(f"v1,{_signature(secret, signed)}" for secret in secrets),
    }


def _signature(secret: str, signed: bytes) -> str:
    key = base64.b64decode(secret.removeprefix("whsec_"))
    return base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()


def _ksuid(steps: int, dice: random.Random) -> str:
    seconds, step = divmod(steps, STEPS_A_SECOND)
    number = int.from_bytes(
        (seconds - _KSUID_EPOCH).to_bytes(4, "big") + bytes([step]) + dice.randbytes(15), "big"
    )
    digits = ""
    for _ in range(27):
        number, digit = divmod(number, 62)
        digits = _BASE62[digit] + digits
    return f"msg_{digits}"


def _body(report: Report) -> bytes:
    bounds = [window.start for window in report.values], [window.end for window in report.values]
    groups = sorted({name for window in report.values for name, _ in window.groups})
    head = {
        "type": "report.meter",
        "report": {"slug": f"{report.meter}_report"},
        "query": {
            "from": _time(min(bounds[0])),
            "to": _time(max(bounds[1])),
            "subject": report.subject,
            "groupBy": groups,
        },
        "meter": {"slug": report.meter, "aggregation": report.aggregation},
    }
    # Digit by digit: json.dumps knows no Decimal, and a float is not exact.
    entries = [
        f'{{"subject": {json.dumps(report.subject)}, "value": {value},'
        f' "groupBy": {json.dumps(dict(window.groups))},'
        f' "windowStart": "{_time(window.start)}", "windowEnd": "{_time(window.end)}"}}'
        for window, value in report.values.items()
    ]
    return f'{json.dumps(head)[:-1]}, "usage": [{", ".join(entries)}]}}'.encode()


def _time(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
