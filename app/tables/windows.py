"""Usage windows: the facts, their history, and what waits to be released."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    Interval,
    LargeBinary,
    Numeric,
    Table,
    Text,
    UniqueConstraint,
    false,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from app.tables.schema import TIMESTAMPTZ, identity, metadata

usage_windows = Table(
    "usage_windows",
    metadata,
    identity(),
    Column("meter", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("group_key", LargeBinary, nullable=False),  # digest of group_by, for the unique key
    Column("group_by", JSONB, nullable=False),
    Column("window_start", TIMESTAMPTZ, nullable=False),
    Column("window_end", TIMESTAMPTZ, nullable=False),
    Column("aggregation", Text, nullable=False),
    Column("value", Numeric, nullable=False),
    # The row's subject is not the one the query was for: suspect, never billed by itself.
    Column("subject_contradicts", Boolean, nullable=False, server_default=false()),
    Column("revision", Integer, nullable=False, server_default=text("1")),
    # webhook: as a delivery told it. The others come from OpenMeter's query API. part: of a window
    # that straddles a period's boundary. flush: provisional, before a period ends. period: the
    # value of a whole period.
    Column("source", Text, nullable=False, server_default=text("'webhook'")),
    Column("part_of", ForeignKey("usage_windows.id")),
    Column("delivery_id", ForeignKey("deliveries.id")),  # null: not from a delivery
    Column("svix_id", Text, nullable=False),
    Column("message_at", TIMESTAMPTZ, nullable=False),
    # pending: to be booked. booked: counted in its usage record. parked: see `reason`. covered:
    # other windows (its parts, the whole period's) count in its place.
    Column("state", Text, nullable=False),
    Column("reason", Text),
    Column("detail", Text),
    Column("retry_at", TIMESTAMPTZ),
    # What of this window is counted in the record now: value x scale, as a fraction. The scale is
    # that of the price it was booked on: a later correction must not be scaled for another one.
    Column("usage_record_id", ForeignKey("usage_records.id")),
    Column("scale_numerator", Numeric),
    Column("scale_denominator", Numeric),
    Column("amount_numerator", Numeric, nullable=False, server_default=text("0")),
    Column("amount_denominator", Numeric, nullable=False, server_default=text("1")),
    Column("booked_at", TIMESTAMPTZ),
    # Where a window that was not closed yet stands: its record's second, fixed when it was first
    # queried. Null: the mapping's rule decides.
    Column("record_at", BigInteger),
    # What of a straddling window is billed in another period than its own.
    Column("slipped_from", TIMESTAMPTZ),
    Column("slipped_to", TIMESTAMPTZ),
    # The revision that an operator let through although it takes much away.
    Column("approved_revision", Integer),
    # A mapping change took it off this record: it waits until that has come down at Stripe.
    Column("moving_from", ForeignKey("usage_records.id")),
    UniqueConstraint("meter", "subject", "group_key", "window_start", "window_end"),
    CheckConstraint("state in ('pending', 'booked', 'parked', 'covered')", name="state"),
    CheckConstraint("source in ('webhook', 'part', 'flush', 'period')", name="source"),
    CheckConstraint("(source = 'part') = (part_of is not null)", name="part_of"),
    CheckConstraint("window_start < window_end", name="bounds"),
    # In the order in which they are claimed: at once by id, or when their time has come. With
    # another the planner, after a burst, walks the primary key through millions of booked rows.
    Index("ix_usage_windows_to_book", "retry_at", "id", postgresql_where=text("state = 'pending'")),
    Index(
        "ix_usage_windows_awaiting_snapshot",
        "detail",
        postgresql_where=text("state = 'pending' and reason = 'awaiting_snapshot'"),
    ),
    Index(
        "ix_usage_windows_parked_subject",
        "subject",
        "id",
        postgresql_where=text("state = 'parked'"),
    ),
    Index(
        "ix_usage_windows_parked_meter", "meter", "id", postgresql_where=text("state = 'parked'")
    ),
    Index(
        "ix_usage_windows_parked_reason", "reason", "id", postgresql_where=text("state = 'parked'")
    ),
    Index(
        "ix_usage_windows_parked_retry",
        "retry_at",
        postgresql_where=text("state = 'parked' and retry_at is not null"),
    ),
    Index("ix_usage_windows_usage_record_id", "usage_record_id"),
    # A delivery is deleted when nothing that it told is left.
    Index("ix_usage_windows_delivery_id", "delivery_id"),
    Index("ix_usage_windows_covered", "id", postgresql_where=text("state = 'covered'")),
    Index(
        "ix_usage_windows_period", "meter", "subject", postgresql_where=text("source = 'period'")
    ),
    # What keeps its record, and with it the record's item period, from being pruned.
    Index(
        "ix_usage_windows_keeping",
        "usage_record_id",
        postgresql_where=text(
            "usage_record_id is not null and (state in ('parked', 'pending') "
            "or source = 'period' or subject_contradicts)"
        ),
    ),
    Index(
        "ix_usage_windows_awaiting_query",
        "retry_at",
        postgresql_where=text(
            "state = 'pending' and reason in ('awaiting_query', 'query_unanswered')"
        ),
    ),
    Index(
        "ix_usage_windows_flush",
        "meter",
        "subject",
        "group_key",
        postgresql_where=text("source = 'flush'"),
    ),
    Index("ix_usage_windows_part_of", "part_of", postgresql_where=text("part_of is not null")),
    Index(
        "ix_usage_windows_moving_from",
        "moving_from",
        postgresql_where=text("moving_from is not null"),
    ),
)

# Every revision of a window that does not stand (any more): the window itself holds the one that
# does. superseded: a newer one took its place. older: it came after a newer one.
window_revisions = Table(
    "window_revisions",
    metadata,
    identity(),
    Column("usage_window_id", ForeignKey("usage_windows.id"), nullable=False, index=True),
    Column("value", Numeric, nullable=False),
    Column("aggregation", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("delivery_id", ForeignKey("deliveries.id"), index=True),
    Column("svix_id", Text, nullable=False),
    Column("message_at", TIMESTAMPTZ, nullable=False),
    Column("verdict", Text, nullable=False),
    Column("kept_at", TIMESTAMPTZ, nullable=False),
    CheckConstraint("verdict in ('superseded', 'older')", name="verdict"),
)

# A series of windows: one meter, subject and group. Its lock lets one booker at a time look for
# windows that overlap; the newest window says from where usage is not booked yet.
usage_series = Table(
    "usage_series",
    metadata,
    Column("meter", Text, primary_key=True),
    Column("subject", Text, primary_key=True),
    Column("group_key", LargeBinary, primary_key=True),
    Column("group_by", JSONB, nullable=False),
    Column("aggregation", Text, nullable=False),
    Column("newest_start", TIMESTAMPTZ, nullable=False),
    Column("newest_end", TIMESTAMPTZ, nullable=False),
    # Of its windows: a search for those that overlap another one begins that much before it.
    Column("longest", Interval, nullable=False, server_default=text("'1 day'")),
    # Up to where windows were deleted: what begins before, and is not in the ledger, is not booked.
    Column("pruned_until", TIMESTAMPTZ),
    Index("ix_usage_series_subject", "subject", "meter"),
)

# What was asked to be released. Parked windows may be millions: the booker turns them into pending
# ones in batches, each window once, in the order of their ids, and forgets the release at the end.
window_releases = Table(
    "window_releases",
    metadata,
    identity(),
    Column("kind", Text, nullable=False),  # of what: meter, subject, subscription, reason
    Column("name", Text, nullable=False),
    Column("after_id", BigInteger, nullable=False, server_default=text("0")),
    CheckConstraint("kind in ('meter', 'subject', 'subscription', 'reason')", name="kind"),
)
