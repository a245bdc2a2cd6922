"""Who sends, whether anything may be sent, and who runs here."""

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    Index,
    Integer,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import UUID

from app.tables.schema import TIMESTAMPTZ, metadata

# The lane of a subscription: its lease lets one worker, and so one POST at a time, through.
subscription_lanes = Table(
    "subscription_lanes",
    metadata,
    Column("subscription", Text, primary_key=True),
    Column("due_at", TIMESTAMPTZ),  # null: nothing to send
    Column("lease_token", UUID),
    Column("leased_by", Text),
    Column("leased_until", TIMESTAMPTZ),  # by the database's clock: replicas' clocks differ
    Index("ix_subscription_lanes_due_at", "due_at", postgresql_where=text("due_at is not null")),
)

# One row: whether the line to Stripe is open. Shared, so that one replica's finding stops all.
stripe_line = Table(
    "stripe_line",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("stopped", Boolean, nullable=False),
    Column("reason", Text),
    Column("detail", Text),
    Column("since", TIMESTAMPTZ),
    Column("probe_at", TIMESTAMPTZ),
    Column("failures", Integer, nullable=False, server_default=text("0")),
    CheckConstraint("id = 1", name="one_row"),
)

# Who runs on this database. Readiness writes its own row and reads it back: health by doing.
replicas = Table(
    "replicas",
    metadata,
    Column("name", Text, primary_key=True),
    Column("seen_at", TIMESTAMPTZ, nullable=False),
)
