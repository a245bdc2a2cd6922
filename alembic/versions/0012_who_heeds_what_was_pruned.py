"""A replica says that it heeds what was pruned: one of the release before does not.

Takes a moment. The release before writes `seen_at` alone, and is known by that.

Revision: 0012, after 0011
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0012"
down_revision: str | None = "0011"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column(
        "replicas", sa.Column("heeds_pruning_at", sa.DateTime(timezone=True), nullable=True)
    )


def downgrade() -> None:
    op.drop_column("replicas", "heeds_pruning_at")
