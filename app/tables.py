"""The tables: one noun each, in the order the data flows. Only repositories speak SQL to them.

    deliveries --> usage_windows --> usage_records --> attempts
                   window_revisions  item_periods        totals of one item in one billing period
    usage_series   window_releases   carries             what went from a closed period's record
    subject_mappings                 subscription_lanes  who may send for a subscription, and when
    meter_mappings
    mapping_version  subscription_snapshots   stripe_line  whether anything may be sent at all
    replicas         who runs here

Locks are always taken in the order mapping lock (advisory), deliveries, usage_series,
usage_windows, item_periods, subscription_lanes, usage_records, so that no two steps can wait for
each other.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    Interval,
    LargeBinary,
    MetaData,
    Numeric,
    Table,
    Text,
    UniqueConstraint,
    false,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB, UUID

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

TIMESTAMPTZ = DateTime(timezone=True)


def _id() -> Column[int]:
    return Column("id", BigInteger, Identity(always=True), primary_key=True)


deliveries = Table(
    "deliveries",
    metadata,
    _id(),
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

subject_mappings = Table(
    "subject_mappings",
    metadata,
    _id(),
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
    _id(),
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

item_periods = Table(
    "item_periods",
    metadata,
    _id(),
    Column("subscription", Text, nullable=False),
    Column("subscription_item", Text, nullable=False),
    Column("period_start", TIMESTAMPTZ, nullable=False),
    Column("period_end", TIMESTAMPTZ, nullable=False),
    # The exact sum of the amounts booked on the period's records, as a fraction.
    Column("exact_numerator", Numeric, nullable=False),
    Column("exact_denominator", Numeric, nullable=False),
    # Fixed with the period's first window: with two roundings the total would depend on the order
    # of arrival. A changed mapping rounds otherwise from the next period on.
    Column("rounding", Text, nullable=False),
    # The sum of the wanted quantities of the period's records = round(exact), never below zero.
    Column("rounded_total", Numeric, nullable=False),
    # How the price combines records: sum, max or latest (`last_during_period`, `last_ever`). Only
    # under `sum` are there totals: otherwise every record is rounded by itself.
    Column("combination", Text, nullable=False, server_default=text("'sum'")),
    # Under `latest`: the one series (meter, subject, group) that the item's period takes.
    Column("series", LargeBinary),
    # carry_forward or hold, of what was booked last.
    Column("late_policy", Text, nullable=False, server_default=text("'carry_forward'")),
    # Stripe takes nothing more for it, by its own word or because it ended long enough ago.
    Column("closed_at", TIMESTAMPTZ),
    UniqueConstraint("subscription_item", "period_start"),
    CheckConstraint("combination in ('sum', 'max', 'latest')", name="combination"),
    CheckConstraint("late_policy in ('carry_forward', 'hold')", name="late_policy"),
)

usage_records = Table(
    "usage_records",
    metadata,
    _id(),
    Column("item_period_id", ForeignKey("item_periods.id"), nullable=False),
    Column("subscription", Text, nullable=False),
    Column("subscription_item", Text, nullable=False),
    Column("timestamp", BigInteger, nullable=False),  # Unix seconds, as Stripe takes it
    # What its windows come to, and what was carried here (above zero) or from here (below zero).
    Column("wanted_quantity", Numeric, nullable=False),
    Column("carried_quantity", Numeric, nullable=False, server_default=text("0")),
    # What Stripe holds as far as its answers tell; 0 before the first (nothing posted is nothing).
    Column("reported_quantity", Numeric, nullable=False, server_default=text("0")),
    # Counts the changes of the wanted quantity; part of the idempotency key.
    Column("revision", Integer, nullable=False, server_default=text("0")),
    Column("svix_id", Text, nullable=False),  # the delivery behind the last change
    # due: wanted differs from reported, or an answer is outstanding. reported: equal.
    # late: its period is closed, and the difference is to be carried or held.
    # held: must not be sent until someone or something acts; `reason` says why.
    Column("state", Text, nullable=False),
    Column("reason", Text),
    Column("detail", Text),
    # With billing thresholds Stripe takes only increments: of wanted - reported.
    Column("increment", Boolean, nullable=False, server_default=false()),
    Column("due_at", TIMESTAMPTZ),
    Column("unsent_since", TIMESTAMPTZ),
    # Attempts that count against the record (an outage of Stripe does not).
    Column("failures", Integer, nullable=False, server_default=text("0")),
    Column("failed_at", TIMESTAMPTZ),
    # The POST whose answer has not been written down. It is settled, with this very key and
    # quantity, before anything newer is sent: so a lost answer can neither double nor overwrite.
    Column("sent_key", Text),
    Column("sent_quantity", Numeric),
    Column("sent_at", TIMESTAMPTZ),
    # set or increment; null (of a release before) is set. An increment is never sent again: while
    # its outcome is in doubt the record is held.
    Column("sent_action", Text),
    # When Stripe's summaries are looked at for an increment in doubt, and how often they were.
    Column("compare_at", TIMESTAMPTZ),
    Column("comparisons", Integer, nullable=False, server_default=text("0")),
    # A POST whose key was given up may have been executed: what Stripe holds is not known until
    # it confirms a quantity. Until then the record is neither equal nor certainly empty.
    Column("doubtful", Boolean, nullable=False, server_default=false()),
    # Raised where Stripe stored a 500 under the key: the next attempt needs a new one.
    Column("key_suffix", Integer, nullable=False, server_default=text("0")),
    UniqueConstraint("subscription_item", "timestamp"),
    CheckConstraint("state in ('due', 'reported', 'late', 'held')", name="state"),
    # Below zero only until the carrier has seen it: more was carried away than is left.
    CheckConstraint("wanted_quantity >= 0 or state in ('late', 'held')", name="wanted"),
    # A due (or late) record without a time would never be claimed again.
    CheckConstraint("(state in ('due', 'late')) = (due_at is not null)", name="due_at"),
    CheckConstraint("sent_action in ('set', 'increment')", name="sent_action"),
    Index(
        "ix_usage_records_due",
        "subscription",
        "due_at",
        "id",
        postgresql_where=text("state = 'due'"),
    ),
    Index(
        "ix_usage_records_unsent",
        "unsent_since",
        postgresql_where=text("state = 'due'"),
    ),
    Index("ix_usage_records_late", "due_at", "id", postgresql_where=text("state = 'late'")),
    Index("ix_usage_records_held", "reason", "id", postgresql_where=text("state = 'held'")),
    Index("ix_usage_records_item_period_id", "item_period_id"),
    Index(
        "ix_usage_records_compare_at",
        "compare_at",
        postgresql_where=text("compare_at is not null"),
    ),
)

usage_windows = Table(
    "usage_windows",
    metadata,
    _id(),
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
    # In the order in which they are claimed: with another the planner, after a burst, walks the
    # primary key through millions of booked rows (1.1 s a round at two million).
    Index("ix_usage_windows_pending", "id", postgresql_where=text("state = 'pending'")),
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
    _id(),
    Column("usage_window_id", ForeignKey("usage_windows.id"), nullable=False, index=True),
    Column("value", Numeric, nullable=False),
    Column("aggregation", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("delivery_id", ForeignKey("deliveries.id")),
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
    Index("ix_usage_series_subject", "subject", "meter"),
)

# What was asked to be released. Parked windows may be millions: the booker turns them into pending
# ones in batches, each window once, in the order of their ids, and forgets the release at the end.
window_releases = Table(
    "window_releases",
    metadata,
    _id(),
    Column("kind", Text, nullable=False),  # of what: meter, subject, subscription, reason
    Column("name", Text, nullable=False),
    Column("after_id", BigInteger, nullable=False, server_default=text("0")),
    CheckConstraint("kind in ('meter', 'subject', 'subscription', 'reason')", name="kind"),
)

attempts = Table(
    "attempts",
    metadata,
    _id(),
    Column("usage_record_id", ForeignKey("usage_records.id"), nullable=False, index=True),
    Column("idempotency_key", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("quantity", Numeric, nullable=False),
    Column("started_at", TIMESTAMPTZ, nullable=False),
    Column("finished_at", TIMESTAMPTZ, nullable=False),
    # succeeded, retried, held, line_stopped: what was decided on the answer
    Column("outcome", Text, nullable=False),
    Column("problem", Text),
    Column("http_status", Integer),
    Column("message", Text),
    Column("request_id", Text),
    Column("replayed", Boolean, nullable=False, server_default=false()),
    Column("worker", Text, nullable=False),
)

# What went from a record of a closed period to one of the period that is open now; below zero: what
# came back. Written in the transaction that changes both records, so it counts once.
carries = Table(
    "carries",
    metadata,
    _id(),
    Column("from_record_id", ForeignKey("usage_records.id"), nullable=False, index=True),
    Column("to_record_id", ForeignKey("usage_records.id"), nullable=False, index=True),
    Column("quantity", Numeric, nullable=False),
    Column("svix_id", Text, nullable=False),  # the delivery behind the difference
    Column("carried_at", TIMESTAMPTZ, nullable=False),
    CheckConstraint("quantity <> 0", name="quantity"),
)

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
