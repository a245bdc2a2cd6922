"""When a message was created, which orders corrections of one window. Never used for security.

Svix names messages `msg_` + KSUID. The id stays on retries and resends, so its creation time does
too, unlike `svix-timestamp`, which is that of the attempt.
"""

from datetime import UTC, datetime, timedelta

_PREFIX = "msg_"
_KSUID_LENGTH = 27
_KSUID_BYTES = 20
_EPOCH = 1_400_000_000
_ALPHABET = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_NO_DIGIT = 255
_DIGITS = bytes(
    _ALPHABET.index(character) if character in _ALPHABET else _NO_DIGIT for character in range(256)
)
_STEP = timedelta(milliseconds=4)
# The signature's own tolerance.
_AHEAD = timedelta(minutes=5)
# A message can be resent for 90 days, and the first attempts take 28 hours.
_BEHIND = timedelta(days=100)


def message_time(message_id: str, first_seen: datetime) -> datetime:
    """The creation time inside `message_id` (UTC, 4 ms steps), else `first_seen`.

    `first_seen` is the aware `svix-timestamp` of the first attempt that arrived. The id's time is
    believed only from 100 days before it to 5 minutes after: any other is not a KSUID's.
    """
    created = _ksuid_time(message_id)
    if created is None or not -_AHEAD <= first_seen - created <= _BEHIND:
        return first_seen
    return created


def _ksuid_time(message_id: str) -> datetime | None:
    if not message_id.startswith(_PREFIX) or len(message_id) != len(_PREFIX) + _KSUID_LENGTH:
        return None
    digits = message_id[len(_PREFIX) :].encode("ascii", "replace").translate(_DIGITS)
    if _NO_DIGIT in digits:
        return None
    number = 0
    for digit in digits:
        number = number * 62 + digit
    if number.bit_length() > _KSUID_BYTES * 8:
        return None
    seconds, steps = divmod(number >> (_KSUID_BYTES - 5) * 8, 256)
    return datetime.fromtimestamp(_EPOCH + seconds, UTC) + steps * _STEP
