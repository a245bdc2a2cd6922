"""Usage records: what must stand at Stripe, by item and period, and the audit trail."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    Numeric,
    Table,
    Text,
    UniqueConstraint,
    false,
    text,
)

from app.tables.schema import TIMESTAMPTZ, identity, metadata

item_periods = Table(
    "item_periods",
    metadata,
    identity(),
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
    # The last second (Unix) that it takes nothing more for: where the anchor was moved under what
    # was booked as one period, the rest of its records can still be set. Null: it is open.
    Column("closed_until", BigInteger),
    # When its records began to be deleted as too old, and what they had reported in all by then, as
    # the price combines them. Nothing is booked here any more.
    Column("pruned_at", TIMESTAMPTZ),
    Column("pruned_reported", Numeric),
    UniqueConstraint("subscription_item", "period_start"),
    Index("ix_item_periods_kept", "period_end", postgresql_where=text("pruned_at is null")),
    Index("ix_item_periods_pruned", "id", postgresql_where=text("pruned_at is not null")),
    CheckConstraint("combination in ('sum', 'max', 'latest')", name="combination"),
    CheckConstraint("late_policy in ('carry_forward', 'hold')", name="late_policy"),
)

usage_records = Table(
    "usage_records",
    metadata,
    identity(),
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
        "ix_usage_records_owed",
        "unsent_since",
        postgresql_where=text("state in ('due', 'late')"),
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

attempts = Table(
    "attempts",
    metadata,
    identity(),
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
    identity(),
    Column("from_record_id", ForeignKey("usage_records.id"), nullable=False, index=True),
    # Null: to nowhere; it was credited to the customer by hand.
    Column("to_record_id", ForeignKey("usage_records.id"), index=True),
    Column("quantity", Numeric, nullable=False),
    Column("svix_id", Text, nullable=False),  # the delivery behind the difference
    Column("carried_at", TIMESTAMPTZ, nullable=False),
    CheckConstraint("quantity <> 0", name="quantity"),
)
