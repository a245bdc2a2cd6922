"""Snapshots and mappings for the tests: one subscription with one billable item."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any

from app.mapping.models import (
    MeterMapping,
    PriceSelector,
    Rounding,
    SnapshotItem,
    SubjectMapping,
    SubscriptionSnapshot,
    TimestampRule,
)

PERIOD_START = datetime(2026, 3, 1, tzinfo=UTC)
PERIOD_END = datetime(2026, 4, 1, tzinfo=UTC)
NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)


def item(name: str = "si_1", **members: Any) -> SnapshotItem:
    """An item that bills price_1 by the sum of its usage records."""
    whole = SnapshotItem(
        name,
        price_id="price_1",
        lookup_key=None,
        price_metadata=(),
        usage_type="metered",
        aggregate_usage="sum",
        billing_meter=None,
        billing_thresholds=False,
        period_start=PERIOD_START,
        period_end=PERIOD_END,
    )
    return replace(whole, **members)


def snapshot(
    *items: SnapshotItem, name: str = "sub_1", fetched_at: datetime = NOW, **members: Any
) -> SubscriptionSnapshot:
    """An active subscription, with the items given or with `item()`."""
    whole = SubscriptionSnapshot(
        name, fetched_at, found=True, status="active", items=items or (item(),)
    )
    return replace(whole, **members)


def price(*ids: str) -> PriceSelector:
    """A price named by its ids."""
    return PriceSelector(ids=frozenset(ids or ("price_1",)))


def meter(
    name: str = "tokens",
    *,
    selector: PriceSelector | None = None,
    scale: Fraction = Fraction(1),
    rounding: Rounding = Rounding.HALF_UP,
    rule: TimestampRule = TimestampRule.INSIDE,
    **members: Any,
) -> MeterMapping:
    """A meter that price_1 bills."""
    return MeterMapping(name, selector or price(), scale, rounding, rule, **members)


def span(
    subscription: str = "sub_1",
    valid_from: datetime | None = None,
    valid_to: datetime | None = None,
    *,
    subject: str = "customer-1",
) -> SubjectMapping:
    """A subject's mapping, by default for ever."""
    return SubjectMapping(subject, subscription, valid_from, valid_to)
