"""Increments: what was sent, and when an outcome in doubt is compared with Stripe's summaries.

Revision: 0003, after 0002
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0003"
down_revision: str | None = "0002"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("usage_records", sa.Column("sent_action", sa.Text(), nullable=True))
    op.add_column(
        "usage_records", sa.Column("compare_at", sa.DateTime(timezone=True), nullable=True)
    )
    op.add_column(
        "usage_records",
        sa.Column("comparisons", sa.Integer(), server_default=sa.text("0"), nullable=False),
    )
    op.execute(
        "alter table usage_records add constraint ck_usage_records_sent_action "
        "check (sent_action in ('set', 'increment'))"
    )
    op.create_index(
        "ix_usage_records_compare_at",
        "usage_records",
        ["compare_at"],
        unique=False,
        postgresql_where=sa.text("compare_at is not null"),
    )


def downgrade() -> None:
    op.drop_index(
        "ix_usage_records_compare_at",
        table_name="usage_records",
        postgresql_where=sa.text("compare_at is not null"),
    )
    op.execute("alter table usage_records drop constraint ck_usage_records_sent_action")
    op.drop_column("usage_records", "comparisons")
    op.drop_column("usage_records", "compare_at")
    op.drop_column("usage_records", "sent_action")
