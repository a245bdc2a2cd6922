"""What stands around an answer of Stripe: its status and the headers worth keeping.

Pure: reads any mapping of headers, and never a clock.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime

# A Retry-After of a week would stop the line for a week; nobody at Stripe asks for more than
# minutes, so a day is the most that is believed.
LONGEST_RETRY_AFTER = 86_400
LONGEST_HEADER = 255

_SECONDS = re.compile(r"[0-9]{1,9}", re.ASCII)
_FLAGS = {"true": True, "false": False}


@dataclass(frozen=True, slots=True)
class AnswerMeta:
    """The envelope of one HTTP answer.

    `retry_after` is in whole seconds. `should_retry` is Stripe's own advice (`None`: none given).
    `idempotent_replayed` says that this is the stored answer of `original_request`, not a new
    execution.
    """

    status: int = 200
    request_id: str | None = None
    idempotent_replayed: bool = False
    original_request: str | None = None
    stripe_version: str | None = None
    should_retry: bool | None = None
    retry_after: int | None = None
    rate_limited_reason: str | None = None


def read_meta(status: int, headers: Mapping[str, str]) -> AnswerMeta:
    """The envelope of an answer; `headers` must find names whatever their case."""
    return AnswerMeta(
        status=status,
        request_id=_text(headers, "request-id"),
        idempotent_replayed=_flag(headers, "idempotent-replayed") is True,
        original_request=_text(headers, "original-request"),
        stripe_version=_text(headers, "stripe-version"),
        should_retry=_flag(headers, "stripe-should-retry"),
        retry_after=_retry_after(headers),
        rate_limited_reason=_text(headers, "stripe-rate-limited-reason"),
    )


def _text(headers: Mapping[str, str], name: str) -> str | None:
    value = headers.get(name)
    if value is None:
        return None
    if not value.isprintable():
        value = "".join(filter(str.isprintable, value))
    return value[:LONGEST_HEADER].strip() or None


def _flag(headers: Mapping[str, str], name: str) -> bool | None:
    value = headers.get(name)
    return None if value is None else _FLAGS.get(value.strip().lower())


def _retry_after(headers: Mapping[str, str]) -> int | None:
    raw = (headers.get("retry-after") or "").strip()
    if not raw:
        return None
    if _SECONDS.fullmatch(raw):
        return min(int(raw), LONGEST_RETRY_AFTER)
    until = _http_date(raw)
    # The answer's own Date is the clock of the one who asks for the pause: ours may be off.
    since = _http_date((headers.get("date") or "").strip())
    if until is None or since is None:
        return None
    return min(max(int((until - since).total_seconds()), 0), LONGEST_RETRY_AFTER)


def _http_date(raw: str) -> datetime | None:
    if not raw:
        return None
    try:
        moment = parsedate_to_datetime(raw)
    except (ValueError, OverflowError):
        return None
    return moment if moment.tzinfo is not None else None
