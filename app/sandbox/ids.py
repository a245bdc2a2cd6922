"""Identifiers in Stripe's manner: a prefix that tells the noun, then letters and digits."""

import secrets
from itertools import count


class Ids:
    """Hands out identifiers that no other sandbox has handed out.

    The random tag is there because a bridge's database outlives a sandbox: a second sandbox that
    counted from one again would call other things by the names the first one used.
    """

    def __init__(self, tag: str | None = None) -> None:
        self._tag = tag if tag is not None else secrets.token_hex(4)
        self._numbers = count(1)

    def new(self, prefix: str) -> str:
        """A fresh identifier, for example `si_1f9c02ab00000007`."""
        return f"{prefix}_1{self._tag}{next(self._numbers):08d}"
