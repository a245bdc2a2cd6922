"""What was pruned is remembered, and indexes for the statements that run on large tables.

Booking, and whoever looks at windows, waits while their indexes are built (some seconds for each
million); deliveries are received all the while. What the release before writes needs none of this,
and it prunes nothing.

Revision: 0009, after 0008
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0009"
down_revision: str | None = "0008"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_KEEPING = (
    "usage_record_id is not null and (state in ('parked', 'pending') "
    "or source = 'period' or subject_contradicts)"
)

# name, table, columns, where
ADDED: tuple[tuple[str, str, tuple[str, ...], str | None], ...] = (
    ("ix_item_periods_kept", "item_periods", ("period_end",), "pruned_at is null"),
    ("ix_item_periods_pruned", "item_periods", ("id",), "pruned_at is not null"),
    ("ix_usage_windows_delivery_id", "usage_windows", ("delivery_id",), None),
    ("ix_window_revisions_delivery_id", "window_revisions", ("delivery_id",), None),
    ("ix_usage_windows_covered", "usage_windows", ("id",), "state = 'covered'"),
    ("ix_usage_windows_period", "usage_windows", ("meter", "subject"), "source = 'period'"),
    (
        "ix_usage_windows_keeping",
        "usage_windows",
        ("usage_record_id",),
        _KEEPING,
    ),
    ("ix_usage_windows_to_book", "usage_windows", ("retry_at", "id"), "state = 'pending'"),
    (
        "ix_usage_windows_awaiting_snapshot",
        "usage_windows",
        ("detail",),
        "state = 'pending' and reason = 'awaiting_snapshot'",
    ),
    (
        "ix_usage_records_owed",
        "usage_records",
        ("unsent_since",),
        "state in ('due', 'late')",
    ),
)
DROPPED: tuple[tuple[str, str, tuple[str, ...], str | None], ...] = (
    ("ix_usage_windows_pending", "usage_windows", ("id",), "state = 'pending'"),
    ("ix_usage_records_unsent", "usage_records", ("unsent_since",), "state = 'due'"),
)


def _create(name: str, table: str, columns: tuple[str, ...], where: str | None) -> None:
    op.create_index(
        name, table, list(columns), postgresql_where=None if where is None else sa.text(where)
    )


# All at once, and in the order in which booking takes them: one after the other, as each is needed,
# would be a deadlock with a booking that has begun.
_LOCK = """
    lock table usage_series, usage_windows, item_periods, usage_records, window_revisions
    in access exclusive mode
"""


def upgrade() -> None:
    op.execute(_LOCK)
    op.add_column("item_periods", sa.Column("pruned_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("item_periods", sa.Column("pruned_reported", sa.Numeric(), nullable=True))
    op.add_column(
        "usage_series", sa.Column("pruned_until", sa.DateTime(timezone=True), nullable=True)
    )
    for index in ADDED:
        _create(*index)
    for name, table, *_ in DROPPED:
        op.drop_index(name, table_name=table)


def downgrade() -> None:
    op.execute(_LOCK)
    for index in DROPPED:
        _create(*index)
    for name, table, *_ in reversed(ADDED):
        op.drop_index(name, table_name=table)
    op.drop_column("usage_series", "pruned_until")
    op.drop_column("item_periods", "pruned_reported")
    op.drop_column("item_periods", "pruned_at")
