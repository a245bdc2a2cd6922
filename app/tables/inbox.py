"""Deliveries: what was received, with its raw body."""

from sqlalchemy import (
    CheckConstraint,
    Column,
    Index,
    LargeBinary,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from app.tables.schema import TIMESTAMPTZ, identity, metadata

deliveries = Table(
    "deliveries",
    metadata,
    identity(),
    Column("svix_id", Text, nullable=False, unique=True),
    Column("body", LargeBinary, nullable=False),
    Column("body_sha256", LargeBinary, nullable=False),
    # Orders corrections: the creation time inside the message id, else the first-seen timestamp.
    Column("message_at", TIMESTAMPTZ, nullable=False),
    Column("received_at", TIMESTAMPTZ, nullable=False),
    # received: to be booked. booked: its windows are in the ledger. rejected: answered 422, kept
    # for a resend. failed: booking it raised an error that nobody foresaw; it waits for a release.
    Column("state", Text, nullable=False),
    Column("faults", JSONB),
    Column("settled_at", TIMESTAMPTZ),
    CheckConstraint("state in ('received', 'booked', 'rejected', 'failed')", name="state"),
    Index("ix_deliveries_received", "id", postgresql_where=text("state = 'received'")),
    Index(
        "ix_deliveries_unbooked",
        "state",
        "id",
        postgresql_where=text("state in ('rejected', 'failed')"),
    ),
)
