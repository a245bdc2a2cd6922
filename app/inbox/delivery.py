"""A delivery on its way into the inbox, and what became of it."""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Self

from app.errors import Fault


class Receipt(StrEnum):
    """What the inbox answers, always after the commit."""

    ACCEPTED = "accepted"
    """Stored to be booked: new, or the very body that was rejected before and can be read now."""
    DUPLICATE = "duplicate"
    """The same id with the same body stands already; nothing was changed."""
    REJECTED = "rejected"
    """Not a usage report; kept so that a resend can go through once this program can read it."""
    CONFLICT = "conflict"
    """The id stands with another body, also a rejected one, which stays; nothing was changed."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One signed webhook message. Build it with `of`."""

    svix_id: str
    body: bytes
    body_sha256: bytes
    message_at: datetime
    """Orders corrections: the creation time in the id, else the first `svix-timestamp`."""
    received_at: datetime
    faults: tuple[Fault, ...] | None
    """None: a usage report, to be booked. Else why it is rejected."""

    @classmethod
    def of(
        cls,
        svix_id: str,
        body: bytes,
        *,
        message_at: datetime,
        received_at: datetime,
        faults: tuple[Fault, ...] | None = None,
    ) -> Self:
        """A delivery with the digest of its body. Times are aware."""
        return cls(svix_id, body, hashlib.sha256(body).digest(), message_at, received_at, faults)
