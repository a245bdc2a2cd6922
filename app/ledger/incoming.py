"""What deliveries tell of windows, before the ledger has looked at it. Pure."""

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from typing import NamedTuple

from app.ledger.deliveries import ClaimedDelivery
from app.ledger.history import Revision
from app.mapping.resolution import WindowSource
from app.openmeter.report import UsageReport


class WindowKey(NamedTuple):
    """What makes a usage window one fact."""

    meter: str
    subject: str
    group_key: bytes
    window_start: datetime
    window_end: datetime


class IncomingWindow(NamedTuple):
    """One window as a delivery tells it. `groups`: by name; `group_by` is their JSON."""

    key: WindowKey
    groups: tuple[tuple[str, str], ...]
    group_by: str
    aggregation: str
    value: Decimal
    subject_contradicts: bool
    delivery: ClaimedDelivery

    @property
    def revision(self) -> Revision:
        """What it says of the window."""
        return Revision(
            self.value,
            self.aggregation,
            WindowSource.WEBHOOK,
            self.delivery.id,
            self.delivery.svix_id,
            self.delivery.message_at,
        )


def group_key(group_by: Mapping[str, str], *, contradicts: bool) -> tuple[bytes, str]:
    """A digest for the unique key, and the JSON it stands for.

    A row whose subject contradicts its query is a fact of its own: it never revises a sound one.
    """
    written = json.dumps(dict(sorted(group_by.items())), ensure_ascii=False, separators=(",", ":"))
    salt = b"contradicts:" if contradicts else b""
    return hashlib.sha256(salt + written.encode()).digest()[:16], written


@lru_cache(maxsize=4096)
def _known_key(groups: tuple[tuple[str, str], ...], *, contradicts: bool) -> tuple[bytes, str]:
    """A few groups come again and again."""
    return group_key(dict(groups), contradicts=contradicts)


def incoming(delivery: ClaimedDelivery, report: UsageReport) -> list[IncomingWindow]:
    """The windows of a delivery, in the order in which it tells them."""
    windows = []
    for window in report.windows:
        key, written = _known_key(window.group_by, contradicts=window.subject_contradicts)
        windows.append(
            IncomingWindow(
                WindowKey(
                    report.meter.slug, window.subject, key, window.window_start, window.window_end
                ),
                window.group_by,
                written,
                report.meter.aggregation,
                window.value,
                window.subject_contradicts,
                delivery,
            )
        )
    return windows
