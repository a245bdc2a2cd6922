"""Every unit on the right bill: late usage, combinations, history, thresholds.

What stands keeps its meaning, and a program of the release before goes on working beside this one
as long as nothing asks OpenMeter and no mapping moves usage: it books windows that wait for an
answer, or for their old place to come down, and it carries nothing.

Revision: 0002, after 0001
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0002"
down_revision: str | None = "0001"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


# table, name, condition now, condition before
CHANGED_CHECKS = (
    (
        "usage_records",
        "state",
        "state in ('due', 'reported', 'late', 'held')",
        "state in ('due', 'reported', 'held')",
    ),
    (
        "usage_records",
        "wanted",
        "wanted_quantity >= 0 or state in ('late', 'held')",
        "wanted_quantity >= 0",
    ),
    (
        "usage_records",
        "due_at",
        "(state in ('due', 'late')) = (due_at is not null)",
        "(state = 'due') = (due_at is not null)",
    ),
    (
        "usage_windows",
        "state",
        "state in ('pending', 'booked', 'parked', 'covered')",
        "state in ('pending', 'booked', 'parked')",
    ),
)
ADDED_CHECKS = (
    ("item_periods", "combination", "combination in ('sum', 'max', 'latest')"),
    ("item_periods", "late_policy", "late_policy in ('carry_forward', 'hold')"),
    ("usage_windows", "source", "source in ('webhook', 'part', 'flush', 'period')"),
    ("usage_windows", "part_of", "(source = 'part') = (part_of is not null)"),
)


def _check(table: str, name: str, condition: str) -> None:
    op.execute(f"alter table {table} add constraint ck_{table}_{name} check ({condition})")


def _drop(table: str, name: str) -> None:
    op.execute(f"alter table {table} drop constraint ck_{table}_{name}")


def upgrade() -> None:
    op.create_table(
        "usage_series",
        sa.Column("meter", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("group_key", sa.LargeBinary(), nullable=False),
        sa.Column("group_by", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("aggregation", sa.Text(), nullable=False),
        sa.Column("newest_start", sa.DateTime(timezone=True), nullable=False),
        sa.Column("newest_end", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("meter", "subject", "group_key", name=op.f("pk_usage_series")),
    )
    op.create_index("ix_usage_series_subject", "usage_series", ["subject", "meter"], unique=False)
    op.create_table(
        "carries",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("from_record_id", sa.BigInteger(), nullable=False),
        sa.Column("to_record_id", sa.BigInteger(), nullable=False),
        sa.Column("quantity", sa.Numeric(), nullable=False),
        sa.Column("svix_id", sa.Text(), nullable=False),
        sa.Column("carried_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("quantity <> 0", name=op.f("ck_carries_quantity")),
        sa.ForeignKeyConstraint(
            ["from_record_id"],
            ["usage_records.id"],
            name=op.f("fk_carries_from_record_id_usage_records"),
        ),
        sa.ForeignKeyConstraint(
            ["to_record_id"],
            ["usage_records.id"],
            name=op.f("fk_carries_to_record_id_usage_records"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_carries")),
    )
    op.create_index(op.f("ix_carries_from_record_id"), "carries", ["from_record_id"], unique=False)
    op.create_index(op.f("ix_carries_to_record_id"), "carries", ["to_record_id"], unique=False)
    op.create_table(
        "window_revisions",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("usage_window_id", sa.BigInteger(), nullable=False),
        sa.Column("value", sa.Numeric(), nullable=False),
        sa.Column("aggregation", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("delivery_id", sa.BigInteger(), nullable=True),
        sa.Column("svix_id", sa.Text(), nullable=False),
        sa.Column("message_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("verdict", sa.Text(), nullable=False),
        sa.Column("kept_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "verdict in ('superseded', 'older')", name=op.f("ck_window_revisions_verdict")
        ),
        sa.ForeignKeyConstraint(
            ["delivery_id"],
            ["deliveries.id"],
            name=op.f("fk_window_revisions_delivery_id_deliveries"),
        ),
        sa.ForeignKeyConstraint(
            ["usage_window_id"],
            ["usage_windows.id"],
            name=op.f("fk_window_revisions_usage_window_id_usage_windows"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_window_revisions")),
    )
    op.create_index(
        op.f("ix_window_revisions_usage_window_id"),
        "window_revisions",
        ["usage_window_id"],
        unique=False,
    )
    op.add_column(
        "item_periods",
        sa.Column("combination", sa.Text(), server_default=sa.text("'sum'"), nullable=False),
    )
    op.add_column("item_periods", sa.Column("series", sa.LargeBinary(), nullable=True))
    op.add_column(
        "item_periods",
        sa.Column(
            "late_policy", sa.Text(), server_default=sa.text("'carry_forward'"), nullable=False
        ),
    )
    op.add_column("item_periods", sa.Column("closed_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column(
        "meter_mappings",
        sa.Column("record_per", sa.Text(), server_default=sa.text("'window'"), nullable=False),
    )
    op.add_column("meter_mappings", sa.Column("late_policy", sa.Text(), nullable=True))
    op.add_column(
        "meter_mappings",
        sa.Column("whole_period", sa.Boolean(), server_default=sa.text("false"), nullable=False),
    )
    op.add_column(
        "usage_records",
        sa.Column("carried_quantity", sa.Numeric(), server_default=sa.text("0"), nullable=False),
    )
    op.add_column(
        "usage_records",
        sa.Column("increment", sa.Boolean(), server_default=sa.text("false"), nullable=False),
    )
    op.create_index(
        "ix_usage_records_late",
        "usage_records",
        ["due_at", "id"],
        unique=False,
        postgresql_where=sa.text("state = 'late'"),
    )
    op.add_column(
        "usage_windows",
        sa.Column("source", sa.Text(), server_default=sa.text("'webhook'"), nullable=False),
    )
    op.add_column("usage_windows", sa.Column("part_of", sa.BigInteger(), nullable=True))
    op.add_column("usage_windows", sa.Column("record_at", sa.BigInteger(), nullable=True))
    op.add_column(
        "usage_windows", sa.Column("slipped_from", sa.DateTime(timezone=True), nullable=True)
    )
    op.add_column(
        "usage_windows", sa.Column("slipped_to", sa.DateTime(timezone=True), nullable=True)
    )
    op.add_column("usage_windows", sa.Column("approved_revision", sa.Integer(), nullable=True))
    op.add_column("usage_windows", sa.Column("moving_from", sa.BigInteger(), nullable=True))
    op.alter_column("usage_windows", "delivery_id", existing_type=sa.BIGINT(), nullable=True)
    op.add_column(
        "subscription_snapshots", sa.Column("ends_at", sa.DateTime(timezone=True), nullable=True)
    )
    op.add_column(
        "subscription_snapshots", sa.Column("flush_at", sa.DateTime(timezone=True), nullable=True)
    )
    op.create_index(
        "ix_subscription_snapshots_flush_at",
        "subscription_snapshots",
        ["flush_at"],
        unique=False,
        postgresql_where=sa.text("flush_at is not null"),
    )
    op.create_index(
        "ix_usage_windows_awaiting_query",
        "usage_windows",
        ["retry_at"],
        unique=False,
        postgresql_where=sa.text(
            "state = 'pending' and reason in ('awaiting_query', 'query_unanswered')"
        ),
    )
    op.create_index(
        "ix_usage_windows_flush",
        "usage_windows",
        ["meter", "subject", "group_key"],
        unique=False,
        postgresql_where=sa.text("source = 'flush'"),
    )
    op.create_index(
        "ix_usage_windows_moving_from",
        "usage_windows",
        ["moving_from"],
        unique=False,
        postgresql_where=sa.text("moving_from is not null"),
    )
    op.create_index(
        "ix_usage_windows_part_of",
        "usage_windows",
        ["part_of"],
        unique=False,
        postgresql_where=sa.text("part_of is not null"),
    )
    op.create_foreign_key(
        op.f("fk_usage_windows_moving_from_usage_records"),
        "usage_windows",
        "usage_records",
        ["moving_from"],
        ["id"],
    )
    op.create_foreign_key(
        op.f("fk_usage_windows_part_of_usage_windows"),
        "usage_windows",
        "usage_windows",
        ["part_of"],
        ["id"],
    )
    for table, name, condition, _ in CHANGED_CHECKS:
        _drop(table, name)
        _check(table, name, condition)
    for table, name, condition in ADDED_CHECKS:
        _check(table, name, condition)


def downgrade() -> None:
    for table, name, _ in reversed(ADDED_CHECKS):
        _drop(table, name)
    for table, name, _, condition in reversed(CHANGED_CHECKS):
        _drop(table, name)
        _check(table, name, condition)
    op.drop_constraint(
        op.f("fk_usage_windows_part_of_usage_windows"), "usage_windows", type_="foreignkey"
    )
    op.drop_constraint(
        op.f("fk_usage_windows_moving_from_usage_records"), "usage_windows", type_="foreignkey"
    )
    op.drop_index(
        "ix_subscription_snapshots_flush_at",
        table_name="subscription_snapshots",
        postgresql_where=sa.text("flush_at is not null"),
    )
    op.drop_column("subscription_snapshots", "flush_at")
    op.drop_column("subscription_snapshots", "ends_at")
    op.drop_index(
        "ix_usage_windows_awaiting_query",
        table_name="usage_windows",
        postgresql_where=sa.text(
            "state = 'pending' and reason in ('awaiting_query', 'query_unanswered')"
        ),
    )
    op.drop_index(
        "ix_usage_windows_flush",
        table_name="usage_windows",
        postgresql_where=sa.text("source = 'flush'"),
    )
    op.drop_index(
        "ix_usage_windows_part_of",
        table_name="usage_windows",
        postgresql_where=sa.text("part_of is not null"),
    )
    op.drop_index(
        "ix_usage_windows_moving_from",
        table_name="usage_windows",
        postgresql_where=sa.text("moving_from is not null"),
    )
    op.alter_column("usage_windows", "delivery_id", existing_type=sa.BIGINT(), nullable=False)
    op.drop_column("usage_windows", "moving_from")
    op.drop_column("usage_windows", "approved_revision")
    op.drop_column("usage_windows", "slipped_to")
    op.drop_column("usage_windows", "slipped_from")
    op.drop_column("usage_windows", "record_at")
    op.drop_column("usage_windows", "part_of")
    op.drop_column("usage_windows", "source")
    op.drop_index(
        "ix_usage_records_late",
        table_name="usage_records",
        postgresql_where=sa.text("state = 'late'"),
    )
    op.drop_column("usage_records", "increment")
    op.drop_column("usage_records", "carried_quantity")
    op.drop_column("meter_mappings", "whole_period")
    op.drop_column("meter_mappings", "late_policy")
    op.drop_column("meter_mappings", "record_per")
    op.drop_column("item_periods", "closed_at")
    op.drop_column("item_periods", "late_policy")
    op.drop_column("item_periods", "series")
    op.drop_column("item_periods", "combination")
    op.drop_index(op.f("ix_window_revisions_usage_window_id"), table_name="window_revisions")
    op.drop_table("window_revisions")
    op.drop_index(op.f("ix_carries_to_record_id"), table_name="carries")
    op.drop_index(op.f("ix_carries_from_record_id"), table_name="carries")
    op.drop_table("carries")
    op.drop_index("ix_usage_series_subject", table_name="usage_series")
    op.drop_table("usage_series")
