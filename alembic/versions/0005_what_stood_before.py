"""What the release before had: its windows make their series, and what it could not bill is tried.

Revision: 0005, after 0004
"""

from collections.abc import Sequence

from alembic import op

revision: str = "0005"
down_revision: str | None = "0004"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    # Without a series a window that overlaps an old one would not be seen, nor usage after it.
    op.execute(
        """
        insert into usage_series (meter, subject, group_key, group_by, aggregation, newest_start,
                                  newest_end, longest)
        select distinct on (meter, subject, group_key)
               meter, subject, group_key, group_by, aggregation, window_start, window_end,
               max(window_end - window_start) over (partition by meter, subject, group_key)
        from usage_windows where source = 'webhook' and not subject_contradicts
        order by meter, subject, group_key, window_end desc
        on conflict do nothing
        """
    )
    op.execute(
        """
        insert into window_releases (kind, name)
        select distinct 'reason', reason from usage_windows
        where state = 'parked' and reason in ('billing_thresholds', 'aggregation_unsupported')
        """
    )


def downgrade() -> None:
    pass
