"""A fleet without Redis holds room for mail in rows.

Revision: 0004
After: 0003
"""

import sqlalchemy as sa
from alembic import op

from mailtape.rows import base

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.add_column(
        "organisations", sa.Column("arrival_us", number, server_default="0", nullable=False)
    )
    op.create_table(
        "holds",
        sa.Column("organisation_id", base.Id(length=16), nullable=False),
        sa.Column("digest", base.Digest(length=32), nullable=False),
        sa.Column("state", number, nullable=False),
        sa.Column("octets", number, nullable=False),
        sa.Column("period", sa.String(length=7), nullable=False),
        sa.Column("expires_at", base.Instant(), nullable=False),
        sa.PrimaryKeyConstraint("organisation_id", "digest"),
    )
    op.create_index("ix_holds_state", "holds", ["organisation_id", "state", "expires_at"])
    op.create_table(
        "joined_names",
        sa.Column("name", base.Digest(length=32), nullable=False),
        sa.Column("first", base.Digest(length=32), nullable=False),
        sa.Column("expires_at", base.Instant(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_index("ix_joined_names_expires_at", "joined_names", ["expires_at"])
