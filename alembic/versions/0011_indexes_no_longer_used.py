"""Two indexes that others have replaced are dropped. Takes a moment.

Revision: 0011, after 0010
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0011"
down_revision: str | None = "0010"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.drop_index("ix_usage_windows_pending", table_name="usage_windows")
    op.drop_index("ix_usage_records_unsent", table_name="usage_records")


def downgrade() -> None:
    op.create_index(
        "ix_usage_windows_pending",
        "usage_windows",
        ["id"],
        postgresql_where=sa.text("state = 'pending'"),
    )
    op.create_index(
        "ix_usage_records_unsent",
        "usage_records",
        ["unsent_since"],
        postgresql_where=sa.text("state = 'due'"),
    )
