"""The tables: one noun each, in the order the data flows. Only repositories speak SQL to them.

    deliveries --> usage_windows --> usage_records --> attempts
                   window_revisions  item_periods        totals of one item in one billing period
    usage_series   window_releases   carries             what went from a closed period's record
    subject_mappings                 subscription_lanes  who may send for a subscription, and when
    meter_mappings
    mapping_version  subscription_snapshots   stripe_line  whether anything may be sent at all
    replicas         who runs here          stripe_pace  how fast, for all replicas together

Locks are always taken in the order mapping lock (advisory), deliveries, usage_series,
usage_windows, item_periods, subscription_lanes, usage_records, so that no two steps can wait for
each other.
"""

from app.tables.inbox import deliveries
from app.tables.mapping import (
    mapping_version,
    meter_mappings,
    subject_mappings,
    subscription_snapshots,
)
from app.tables.records import attempts, carries, item_periods, usage_records
from app.tables.running import replicas, stripe_line, stripe_pace, subscription_lanes
from app.tables.schema import TIMESTAMPTZ, metadata
from app.tables.windows import usage_series, usage_windows, window_releases, window_revisions

__all__ = [
    "TIMESTAMPTZ",
    "attempts",
    "carries",
    "deliveries",
    "item_periods",
    "mapping_version",
    "metadata",
    "meter_mappings",
    "replicas",
    "stripe_line",
    "stripe_pace",
    "subject_mappings",
    "subscription_lanes",
    "subscription_snapshots",
    "usage_records",
    "usage_series",
    "usage_windows",
    "window_releases",
    "window_revisions",
]
