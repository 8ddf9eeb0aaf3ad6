"""Events keep the name of what was held for their mail, so that it is not counted twice.

Revision: 0005
After: 0004
"""

import sqlalchemy as sa
from alembic import op

from mailtape.rows import base

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply; what was held for older mail has run out."""
    op.add_column("events", sa.Column("held", base.Digest(length=32), nullable=True))
