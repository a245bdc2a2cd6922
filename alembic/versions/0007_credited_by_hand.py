"""What was billed too much, and credited to the customer by hand, went from a record to nowhere.

Revision: 0007, after 0006
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0007"
down_revision: str | None = "0006"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.alter_column("carries", "to_record_id", existing_type=sa.BigInteger(), nullable=True)


def downgrade() -> None:
    op.execute("delete from carries where to_record_id is null")
    op.alter_column("carries", "to_record_id", existing_type=sa.BigInteger(), nullable=False)
