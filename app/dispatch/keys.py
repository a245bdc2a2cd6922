"""Idempotency keys: pure functions of what is stored. Another value, another key."""

import hashlib

LONGEST = 200  # Stripe takes 255; room for a suffix
SUFFIX = "~"


def idempotency_key(
    svix_id: str,
    subscription_item: str,
    timestamp: int,
    revision: int,
    quantity: int,
    suffix: int = 0,
    *,
    increment: bool = False,
) -> str:
    """The key of a record's revision: the same after any crash, on any replica.

    The delivery names the change, item and timestamp the record, the revision the change of a
    change (A, B and A again are three). `suffix` counts the final answers that Stripe has stored
    for this record: it repeats a stored refusal for 24 h, also when the cause is gone. With
    `increment` the quantity is the difference that is added.
    """
    amount = f"{'i' if increment else 'q'}{quantity}"
    parts = (svix_id, subscription_item, str(timestamp), f"r{revision}", amount)
    key = "mb-" + "-".join(parts)
    # Read from its end a key has one meaning only, unless the item has dashes (Stripe's have none).
    if len(key) > LONGEST or "-" in subscription_item:
        key = "mb-" + hashlib.sha256("\n".join(parts).encode()).hexdigest()
    return next_key(key, suffix) if suffix else key


def next_key(key: str, suffix: int) -> str:
    """The key under which a request goes on where Stripe stored an answer under `key`."""
    base, mark, number = key.rpartition(SUFFIX)
    return f"{base if mark and number.isdecimal() else key}{SUFFIX}{suffix}"
