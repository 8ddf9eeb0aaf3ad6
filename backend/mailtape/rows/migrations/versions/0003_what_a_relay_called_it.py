"""Messages keep the name that the relay which handed them over had for their mail.

Revision: 0003
After: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply; older messages came by no name that anybody would ask for again."""
    op.add_column(
        "messages", sa.Column("queue_id", sa.String(255), nullable=False, server_default="")
    )
