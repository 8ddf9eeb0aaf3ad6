"""Jobs that every worker has are done by one at a time.

Revision: 0006
After: 0005
"""

import sqlalchemy as sa
from alembic import op

from mailtape.rows import base

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "rounds",
        sa.Column("job", sa.String(length=50), nullable=False),
        sa.Column("due_at", base.Instant(), nullable=False),
        sa.PrimaryKeyConstraint("job"),
    )
