"""Who sends, whether anything may be sent, and who runs here."""

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    Double,
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
    # When its next turn is: not before its next record is due, and not before the end of its last
    # turn, so that lanes take turns however many records one of them has. Null: nothing to send.
    Column("due_at", TIMESTAMPTZ),
    # The end of the billing period of the record that is next, as of the end of the last turn; it
    # stays when nothing is left. Null: not known. Turns that end soon are given first.
    Column("period_end", TIMESTAMPTZ),
    Column("lease_token", UUID),
    Column("leased_by", Text),
    Column("leased_until", TIMESTAMPTZ),  # by the database's clock: replicas' clocks differ
    Index("ix_subscription_lanes_due_at", "due_at", postgresql_where=text("due_at is not null")),
    Index(
        "ix_subscription_lanes_period_end",
        "period_end",
        "due_at",
        postgresql_where=text("due_at is not null"),
    ),
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

# The pace of usage-record calls, one row for each account and mode: shared by all replicas, kept by
# the database's clock.
stripe_pace = Table(
    "stripe_pace",
    metadata,
    Column("account", Text, primary_key=True),  # live or test, and STRIPE_ACCOUNT
    Column("rate", Double, nullable=False),  # calls a second, as Stripe has taught it
    Column("set_rate", Double, nullable=False),  # the setting that it began with
    # The first instant that no replica has leased yet. In the past: nobody waits.
    Column("next_at", TIMESTAMPTZ, nullable=False),
    Column("slowed_at", TIMESTAMPTZ),  # when Stripe last said that it was too fast
    CheckConstraint("rate > 0 and set_rate > 0", name="rate"),
)

# Who runs on this database. Readiness writes its own row and reads it back: health by doing.
replicas = Table(
    "replicas",
    metadata,
    Column("name", Text, primary_key=True),
    Column("seen_at", TIMESTAMPTZ, nullable=False),
    # The same instant, by a program that heeds what was pruned: an older one leaves it as it was.
    Column("heeds_pruning_at", TIMESTAMPTZ),
)
