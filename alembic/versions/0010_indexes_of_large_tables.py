"""Indexes for the statements that run on large tables.

Booking and sending wait while they are built (some seconds for each million windows); deliveries
are received, and everything can be looked at, all the while. Not CONCURRENTLY: that waits for every
transaction, also for those of replicas that wait for this migration.

Revision: 0010, after 0009
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0010"
down_revision: str | None = "0009"
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

# All at once, and in the order in which booking takes them: one after the other, as each is needed,
# would be a deadlock with a booking that has begun.
_LOCK = """
    lock table usage_windows, item_periods, usage_records, window_revisions
    in {mode} mode
"""


def upgrade() -> None:
    op.execute(_LOCK.format(mode="share row exclusive"))
    for name, table, columns, where in ADDED:
        op.create_index(
            name, table, list(columns), postgresql_where=None if where is None else sa.text(where)
        )


def downgrade() -> None:
    op.execute(_LOCK.format(mode="access exclusive"))
    for name, table, *_ in reversed(ADDED):
        op.drop_index(name, table_name=table)
