"""Makes foreign text fit to be shown: no API key, no control characters, a bounded length."""

import re

LONGEST_MESSAGE = 500

_KEY = re.compile(r"\b([a-z]{2}_(?:live|test)_)[^\s'\"`,;)]+")


def presentable(text: str, secret: str | None = None) -> str:
    """`text` without keys (ours, or anything shaped like one), on one line, at most 500 characters.

    Stripe repeats a refused key in its message, masked or not.
    """
    if secret:
        text = text.replace(secret, "[key]")
    text = _KEY.sub(r"\1[key]", text)
    line = "".join(char if char.isprintable() else " " for char in text).strip()
    return line if len(line) <= LONGEST_MESSAGE else line[: LONGEST_MESSAGE - 1] + "…"
