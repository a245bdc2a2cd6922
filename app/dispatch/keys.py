"""Idempotency keys: pure functions of what is stored. Another value, another key."""

import hashlib

LONGEST = 200  # Stripe takes 255; room for a suffix


def idempotency_key(
    svix_id: str, subscription_item: str, timestamp: int, revision: int, quantity: int
) -> str:
    """The key of a record's revision: the same after any crash, on any replica.

    The delivery names the change, item and timestamp the record, the revision the change of a
    change (A, B and A again are three).
    """
    key = f"mb-{svix_id}-{subscription_item}-{timestamp}-r{revision}-q{quantity}"
    if len(key) <= LONGEST:
        return key
    return "mb-" + hashlib.sha256(key.encode()).hexdigest()


def next_key(key: str, suffix: int) -> str:
    """The key under which a request goes on where Stripe stored a 500 under `key`."""
    base, mark, number = key.rpartition("~")
    return f"{base if mark and number.isdigit() else key}~{suffix}"
