"""One pace for all replicas, and the turns of lanes whose billing period ends soon.

Revision: 0008, after 0007
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0008"
down_revision: str | None = "0007"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "stripe_pace",
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("rate", sa.Double(), nullable=False),
        sa.Column("set_rate", sa.Double(), nullable=False),
        sa.Column("next_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("slowed_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("rate > 0 and set_rate > 0", name=op.f("ck_stripe_pace_rate")),
        sa.PrimaryKeyConstraint("account", name=op.f("pk_stripe_pace")),
    )
    op.add_column(
        "subscription_lanes", sa.Column("period_end", sa.DateTime(timezone=True), nullable=True)
    )
    op.create_index(
        "ix_subscription_lanes_period_end",
        "subscription_lanes",
        ["period_end"],
        postgresql_where=sa.text("due_at is not null"),
    )


def downgrade() -> None:
    op.drop_index(
        "ix_subscription_lanes_period_end",
        table_name="subscription_lanes",
        postgresql_where=sa.text("due_at is not null"),
    )
    op.drop_column("subscription_lanes", "period_end")
    op.drop_table("stripe_pace")
