"""Message ids as Svix makes them: `msg_` and a KSUID."""

from datetime import UTC, datetime, timedelta

DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
EPOCH = datetime.fromtimestamp(1_400_000_000, UTC)


def message_id(created: datetime, tail: int = 0) -> str:
    milliseconds = (created - EPOCH) // timedelta(milliseconds=1)
    seconds, rest = divmod(milliseconds, 1000)
    number = (seconds << 128) | (rest // 4 << 120) | tail
    text = ""
    for _ in range(27):
        number, digit = divmod(number, 62)
        text = DIGITS[digit] + text
    return "msg_" + text
