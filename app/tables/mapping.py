"""Mappings and what Stripe last said of subscriptions."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Index,
    Integer,
    Numeric,
    Table,
    Text,
    UniqueConstraint,
    false,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from app.tables.schema import TIMESTAMPTZ, identity, metadata

subject_mappings = Table(
    "subject_mappings",
    metadata,
    identity(),
    Column("subject", Text, nullable=False, index=True),
    Column("subscription", Text, nullable=False, index=True),
    # Half-open; null is "since ever" and "for ever". Spans of one subject never overlap: the
    # repository checks it under the mapping lock (an exclusion constraint would need btree_gist).
    Column("valid_from", TIMESTAMPTZ),
    Column("valid_to", TIMESTAMPTZ),
    Column("updated_at", TIMESTAMPTZ, nullable=False),
    CheckConstraint("valid_from < valid_to", name="span"),
)

meter_mappings = Table(
    "meter_mappings",
    metadata,
    identity(),
    Column("meter", Text, nullable=False),
    Column("group_filter", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    # One of three members: `ids`, `lookup_key` or `metadata`.
    Column("price_selector", JSONB, nullable=False),
    Column("scale_numerator", Numeric, nullable=False),
    Column("scale_denominator", Numeric, nullable=False),
    Column("rounding", Text, nullable=False),
    Column("timestamp_rule", Text, nullable=False),
    # Which windows make one record: window, hour, day or period.
    Column("record_per", Text, nullable=False, server_default=text("'window'")),
    # carry_forward or hold; null: what the instance is set to.
    Column("late_policy", Text),
    # The period's value is queried at OpenMeter and not combined from windows.
    Column("whole_period", Boolean, nullable=False, server_default=false()),
    Column("updated_at", TIMESTAMPTZ, nullable=False),
    UniqueConstraint("meter", "group_filter"),
    CheckConstraint("scale_numerator > 0 and scale_denominator > 0", name="scale"),
)

# One row. Every change of a mapping raises it, so that no replica books by a stale cache.
mapping_version = Table(
    "mapping_version",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("version", BigInteger, nullable=False),
    CheckConstraint("id = 1", name="one_row"),
)

subscription_snapshots = Table(
    "subscription_snapshots",
    metadata,
    Column("subscription", Text, primary_key=True),
    Column("fetched_at", TIMESTAMPTZ, nullable=False),
    # False: Stripe said that there is no such subscription.
    Column("found", Boolean, nullable=False),
    Column("body", JSONB),
    # When its current period ends, or the subscription itself before that.
    Column("ends_at", TIMESTAMPTZ),
    # When the usage that no window has told yet is asked from OpenMeter next.
    Column("flush_at", TIMESTAMPTZ),
    Index(
        "ix_subscription_snapshots_flush_at",
        "flush_at",
        postgresql_where=text("flush_at is not null"),
    ),
)
