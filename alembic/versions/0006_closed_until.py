"""Up to which second an item's period is closed: a moved anchor closes a part of one.

Revision: 0006, after 0005
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0006"
down_revision: str | None = "0005"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("item_periods", sa.Column("closed_until", sa.BigInteger(), nullable=True))
    op.execute(
        "update item_periods set closed_until = extract(epoch from period_end)::bigint "
        "where closed_at is not null"
    )


def downgrade() -> None:
    op.drop_column("item_periods", "closed_until")
