"""What was pruned is remembered. Takes a moment; the indexes come with 0010.

What the release before writes needs none of this, and it prunes nothing.

Revision: 0009, after 0008
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0009"
down_revision: str | None = "0008"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    # In the order in which booking takes the tables: otherwise a booking that has begun, and this,
    # would each wait for what the other one has.
    op.add_column(
        "usage_series", sa.Column("pruned_until", sa.DateTime(timezone=True), nullable=True)
    )
    op.add_column("item_periods", sa.Column("pruned_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("item_periods", sa.Column("pruned_reported", sa.Numeric(), nullable=True))


_MARKED = """
    select exists (select 1 from usage_series where pruned_until is not null)
        or exists (select 1 from item_periods where pruned_at is not null)
"""


def downgrade() -> None:
    # Nothing may be marked between the look and the end of the columns.
    op.execute("lock table usage_series, item_periods in access exclusive mode")
    if op.get_bind().scalar(sa.text(_MARKED)):
        raise RuntimeError(
            "windows were pruned: without the marks of that (usage_series.pruned_until, "
            "item_periods.pruned_at) they would be billed again when they are told again. "
            "Stay at this schema"
        )
    op.drop_column("usage_series", "pruned_until")
    op.drop_column("item_periods", "pruned_reported")
    op.drop_column("item_periods", "pruned_at")
