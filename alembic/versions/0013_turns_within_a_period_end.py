"""Lanes whose periods end together, as at the first of a month, are given turns by their waiting.

Takes a second for each million subscriptions, for which booking and sending wait; deliveries are
received meanwhile. The release before works with it as before.

Revision: 0013, after 0012
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0013"
down_revision: str | None = "0012"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_NAME = "ix_subscription_lanes_period_end"


def _index_on(*columns: str) -> None:
    op.drop_index(_NAME, table_name="subscription_lanes")
    op.create_index(
        _NAME,
        "subscription_lanes",
        list(columns),
        postgresql_where=sa.text("due_at is not null"),
    )


def upgrade() -> None:
    _index_on("period_end", "due_at")


def downgrade() -> None:
    _index_on("period_end")
