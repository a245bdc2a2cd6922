"""A series knows the longest of its windows, so that overlaps are found without a long search.

Revision: 0004, after 0003
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0004"
down_revision: str | None = "0003"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column(
        "usage_series",
        sa.Column("longest", sa.Interval(), server_default=sa.text("'1 day'"), nullable=False),
    )


def downgrade() -> None:
    op.drop_column("usage_series", "longest")
