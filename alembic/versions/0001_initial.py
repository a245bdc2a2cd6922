"""The first schema: deliveries, mappings, ledger, dispatch.

Revision: 0001
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0001"
down_revision: str | None = None
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "deliveries",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("svix_id", sa.Text(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("body_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("message_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("faults", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("settled_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "state in ('received', 'booked', 'rejected', 'failed')",
            name=op.f("ck_deliveries_state"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deliveries")),
        sa.UniqueConstraint("svix_id", name=op.f("uq_deliveries_svix_id")),
    )
    op.create_index(
        "ix_deliveries_received",
        "deliveries",
        ["id"],
        unique=False,
        postgresql_where=sa.text("state = 'received'"),
    )
    op.create_index(
        "ix_deliveries_unbooked",
        "deliveries",
        ["state", "id"],
        unique=False,
        postgresql_where=sa.text("state in ('rejected', 'failed')"),
    )
    op.create_table(
        "item_periods",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("subscription", sa.Text(), nullable=False),
        sa.Column("subscription_item", sa.Text(), nullable=False),
        sa.Column("period_start", sa.DateTime(timezone=True), nullable=False),
        sa.Column("period_end", sa.DateTime(timezone=True), nullable=False),
        sa.Column("exact_numerator", sa.Numeric(), nullable=False),
        sa.Column("exact_denominator", sa.Numeric(), nullable=False),
        sa.Column("rounding", sa.Text(), nullable=False),
        sa.Column("rounded_total", sa.Numeric(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_item_periods")),
        sa.UniqueConstraint(
            "subscription_item",
            "period_start",
            name=op.f("uq_item_periods_subscription_item_period_start"),
        ),
    )
    op.create_table(
        "mapping_version",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_mapping_version_one_row")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_mapping_version")),
    )
    op.create_table(
        "meter_mappings",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("meter", sa.Text(), nullable=False),
        sa.Column(
            "group_filter",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column("price_selector", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("scale_numerator", sa.Numeric(), nullable=False),
        sa.Column("scale_denominator", sa.Numeric(), nullable=False),
        sa.Column("rounding", sa.Text(), nullable=False),
        sa.Column("timestamp_rule", sa.Text(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "scale_numerator > 0 and scale_denominator > 0", name=op.f("ck_meter_mappings_scale")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_meter_mappings")),
        sa.UniqueConstraint(
            "meter", "group_filter", name=op.f("uq_meter_mappings_meter_group_filter")
        ),
    )
    op.create_table(
        "replicas",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_replicas")),
    )
    op.create_table(
        "stripe_line",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("stopped", sa.Boolean(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("since", sa.DateTime(timezone=True), nullable=True),
        sa.Column("probe_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("failures", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_stripe_line_one_row")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_stripe_line")),
    )
    op.create_table(
        "subject_mappings",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("subscription", sa.Text(), nullable=False),
        sa.Column("valid_from", sa.DateTime(timezone=True), nullable=True),
        sa.Column("valid_to", sa.DateTime(timezone=True), nullable=True),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("valid_from < valid_to", name=op.f("ck_subject_mappings_span")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_subject_mappings")),
    )
    op.create_index(
        op.f("ix_subject_mappings_subject"), "subject_mappings", ["subject"], unique=False
    )
    op.create_index(
        op.f("ix_subject_mappings_subscription"), "subject_mappings", ["subscription"], unique=False
    )
    op.create_table(
        "subscription_lanes",
        sa.Column("subscription", sa.Text(), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("lease_token", sa.UUID(), nullable=True),
        sa.Column("leased_by", sa.Text(), nullable=True),
        sa.Column("leased_until", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("subscription", name=op.f("pk_subscription_lanes")),
    )
    op.create_index(
        "ix_subscription_lanes_due_at",
        "subscription_lanes",
        ["due_at"],
        unique=False,
        postgresql_where=sa.text("due_at is not null"),
    )
    op.create_table(
        "subscription_snapshots",
        sa.Column("subscription", sa.Text(), nullable=False),
        sa.Column("fetched_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("found", sa.Boolean(), nullable=False),
        sa.Column("body", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.PrimaryKeyConstraint("subscription", name=op.f("pk_subscription_snapshots")),
    )
    op.create_table(
        "window_releases",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("after_id", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.CheckConstraint(
            "kind in ('meter', 'subject', 'subscription', 'reason')",
            name=op.f("ck_window_releases_kind"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_window_releases")),
    )
    op.create_table(
        "usage_records",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("item_period_id", sa.BigInteger(), nullable=False),
        sa.Column("subscription", sa.Text(), nullable=False),
        sa.Column("subscription_item", sa.Text(), nullable=False),
        sa.Column("timestamp", sa.BigInteger(), nullable=False),
        sa.Column("wanted_quantity", sa.Numeric(), nullable=False),
        sa.Column("reported_quantity", sa.Numeric(), server_default=sa.text("0"), nullable=False),
        sa.Column("revision", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("svix_id", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("unsent_since", sa.DateTime(timezone=True), nullable=True),
        sa.Column("failures", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("failed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("sent_key", sa.Text(), nullable=True),
        sa.Column("sent_quantity", sa.Numeric(), nullable=True),
        sa.Column("sent_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("doubtful", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("key_suffix", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.CheckConstraint(
            "(state = 'due') = (due_at is not null)", name=op.f("ck_usage_records_due_at")
        ),
        sa.CheckConstraint(
            "state in ('due', 'reported', 'held')", name=op.f("ck_usage_records_state")
        ),
        sa.CheckConstraint("wanted_quantity >= 0", name=op.f("ck_usage_records_wanted")),
        sa.ForeignKeyConstraint(
            ["item_period_id"],
            ["item_periods.id"],
            name=op.f("fk_usage_records_item_period_id_item_periods"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_usage_records")),
        sa.UniqueConstraint(
            "subscription_item",
            "timestamp",
            name=op.f("uq_usage_records_subscription_item_timestamp"),
        ),
    )
    op.create_index(
        "ix_usage_records_due",
        "usage_records",
        ["subscription", "due_at", "id"],
        unique=False,
        postgresql_where=sa.text("state = 'due'"),
    )
    op.create_index(
        "ix_usage_records_held",
        "usage_records",
        ["reason", "id"],
        unique=False,
        postgresql_where=sa.text("state = 'held'"),
    )
    op.create_index(
        "ix_usage_records_item_period_id", "usage_records", ["item_period_id"], unique=False
    )
    op.create_index(
        "ix_usage_records_unsent",
        "usage_records",
        ["unsent_since"],
        unique=False,
        postgresql_where=sa.text("state = 'due'"),
    )
    op.create_table(
        "attempts",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("usage_record_id", sa.BigInteger(), nullable=False),
        sa.Column("idempotency_key", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("quantity", sa.Numeric(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.Column("http_status", sa.Integer(), nullable=True),
        sa.Column("message", sa.Text(), nullable=True),
        sa.Column("request_id", sa.Text(), nullable=True),
        sa.Column("replayed", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("worker", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["usage_record_id"],
            ["usage_records.id"],
            name=op.f("fk_attempts_usage_record_id_usage_records"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_attempts")),
    )
    op.create_index(
        op.f("ix_attempts_usage_record_id"), "attempts", ["usage_record_id"], unique=False
    )
    op.create_table(
        "usage_windows",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("meter", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("group_key", sa.LargeBinary(), nullable=False),
        sa.Column("group_by", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("window_start", sa.DateTime(timezone=True), nullable=False),
        sa.Column("window_end", sa.DateTime(timezone=True), nullable=False),
        sa.Column("aggregation", sa.Text(), nullable=False),
        sa.Column("value", sa.Numeric(), nullable=False),
        sa.Column(
            "subject_contradicts", sa.Boolean(), server_default=sa.text("false"), nullable=False
        ),
        sa.Column("revision", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("delivery_id", sa.BigInteger(), nullable=False),
        sa.Column("svix_id", sa.Text(), nullable=False),
        sa.Column("message_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("retry_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("usage_record_id", sa.BigInteger(), nullable=True),
        sa.Column("scale_numerator", sa.Numeric(), nullable=True),
        sa.Column("scale_denominator", sa.Numeric(), nullable=True),
        sa.Column("amount_numerator", sa.Numeric(), server_default=sa.text("0"), nullable=False),
        sa.Column("amount_denominator", sa.Numeric(), server_default=sa.text("1"), nullable=False),
        sa.Column("booked_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "state in ('pending', 'booked', 'parked')", name=op.f("ck_usage_windows_state")
        ),
        sa.CheckConstraint("window_start < window_end", name=op.f("ck_usage_windows_bounds")),
        sa.ForeignKeyConstraint(
            ["delivery_id"], ["deliveries.id"], name=op.f("fk_usage_windows_delivery_id_deliveries")
        ),
        sa.ForeignKeyConstraint(
            ["usage_record_id"],
            ["usage_records.id"],
            name=op.f("fk_usage_windows_usage_record_id_usage_records"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_usage_windows")),
        sa.UniqueConstraint(
            "meter",
            "subject",
            "group_key",
            "window_start",
            "window_end",
            name=op.f("uq_usage_windows_meter_subject_group_key_window_start_window_end"),
        ),
    )
    op.create_index(
        "ix_usage_windows_parked_meter",
        "usage_windows",
        ["meter", "id"],
        unique=False,
        postgresql_where=sa.text("state = 'parked'"),
    )
    op.create_index(
        "ix_usage_windows_parked_reason",
        "usage_windows",
        ["reason", "id"],
        unique=False,
        postgresql_where=sa.text("state = 'parked'"),
    )
    op.create_index(
        "ix_usage_windows_parked_retry",
        "usage_windows",
        ["retry_at"],
        unique=False,
        postgresql_where=sa.text("state = 'parked' and retry_at is not null"),
    )
    op.create_index(
        "ix_usage_windows_parked_subject",
        "usage_windows",
        ["subject", "id"],
        unique=False,
        postgresql_where=sa.text("state = 'parked'"),
    )
    op.create_index(
        "ix_usage_windows_pending",
        "usage_windows",
        ["id"],
        unique=False,
        postgresql_where=sa.text("state = 'pending'"),
    )
    op.create_index(
        "ix_usage_windows_usage_record_id", "usage_windows", ["usage_record_id"], unique=False
    )

    # The two tables that hold one row hold it from the start.
    op.execute("insert into mapping_version (id, version) values (1, 1)")
    op.execute("insert into stripe_line (id, stopped) values (1, false)")


def downgrade() -> None:
    op.drop_index("ix_usage_windows_usage_record_id", table_name="usage_windows")
    op.drop_index(
        "ix_usage_windows_pending",
        table_name="usage_windows",
        postgresql_where=sa.text("state = 'pending'"),
    )
    op.drop_index(
        "ix_usage_windows_parked_subject",
        table_name="usage_windows",
        postgresql_where=sa.text("state = 'parked'"),
    )
    op.drop_index(
        "ix_usage_windows_parked_retry",
        table_name="usage_windows",
        postgresql_where=sa.text("state = 'parked' and retry_at is not null"),
    )
    op.drop_index(
        "ix_usage_windows_parked_reason",
        table_name="usage_windows",
        postgresql_where=sa.text("state = 'parked'"),
    )
    op.drop_index(
        "ix_usage_windows_parked_meter",
        table_name="usage_windows",
        postgresql_where=sa.text("state = 'parked'"),
    )
    op.drop_table("usage_windows")
    op.drop_index(op.f("ix_attempts_usage_record_id"), table_name="attempts")
    op.drop_table("attempts")
    op.drop_index(
        "ix_usage_records_unsent",
        table_name="usage_records",
        postgresql_where=sa.text("state = 'due'"),
    )
    op.drop_index("ix_usage_records_item_period_id", table_name="usage_records")
    op.drop_index(
        "ix_usage_records_held",
        table_name="usage_records",
        postgresql_where=sa.text("state = 'held'"),
    )
    op.drop_index(
        "ix_usage_records_due",
        table_name="usage_records",
        postgresql_where=sa.text("state = 'due'"),
    )
    op.drop_table("usage_records")
    op.drop_table("window_releases")
    op.drop_table("subscription_snapshots")
    op.drop_index(
        "ix_subscription_lanes_due_at",
        table_name="subscription_lanes",
        postgresql_where=sa.text("due_at is not null"),
    )
    op.drop_table("subscription_lanes")
    op.drop_index(op.f("ix_subject_mappings_subscription"), table_name="subject_mappings")
    op.drop_index(op.f("ix_subject_mappings_subject"), table_name="subject_mappings")
    op.drop_table("subject_mappings")
    op.drop_table("stripe_line")
    op.drop_table("replicas")
    op.drop_table("meter_mappings")
    op.drop_table("mapping_version")
    op.drop_table("item_periods")
    op.drop_index(
        "ix_deliveries_unbooked",
        table_name="deliveries",
        postgresql_where=sa.text("state in ('rejected', 'failed')"),
    )
    op.drop_index(
        "ix_deliveries_received",
        table_name="deliveries",
        postgresql_where=sa.text("state = 'received'"),
    )
    op.drop_table("deliveries")
