"""the first schema.

Revision: 0001
After: nothing
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

from mailtape.rows import base

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "events",
        sa.Column("organisation_id", base.Id(length=16), nullable=False),
        sa.Column(
            "sequence",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=False,
            nullable=False,
        ),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("message_id", base.Id(length=16), nullable=False),
        sa.Column("period", sa.String(length=7), nullable=False),
        sa.Column("created_at", base.Instant(), nullable=False),
        sa.PrimaryKeyConstraint("organisation_id", "sequence"),
    )
    op.create_table(
        "failures",
        sa.Column(
            "number",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("subject", base.Digest(length=32), nullable=False),
        sa.Column("failed_at", base.Instant(), nullable=False),
        sa.Column("counts_until", base.Instant(), nullable=False),
        sa.PrimaryKeyConstraint("number"),
    )
    with op.batch_alter_table("failures", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_failures_counts_until"), ["counts_until"], unique=False
        )
        batch_op.create_index("ix_failures_subject", ["subject", "failed_at"], unique=False)

    op.create_table(
        "ingest_receipts",
        sa.Column("organisation_id", base.Id(length=16), nullable=False),
        sa.Column("key_hash", base.Digest(length=32), nullable=False),
        sa.Column("request_hash", base.Digest(length=32), nullable=False),
        sa.Column("ingest_id", base.Id(length=16), nullable=False),
        sa.Column("statuses", sa.JSON(), nullable=False),
        sa.Column("created_at", base.Instant(), nullable=False),
        sa.PrimaryKeyConstraint("organisation_id", "key_hash"),
    )
    with op.batch_alter_table("ingest_receipts", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_ingest_receipts_created_at"), ["created_at"], unique=False
        )

    op.create_table(
        "message_keys",
        sa.Column("organisation_id", base.Id(length=16), nullable=False),
        sa.Column("dedupe_key", base.Key(length=32), nullable=False),
        sa.Column("deleted_at", base.Instant(), nullable=False),
        sa.PrimaryKeyConstraint("organisation_id", "dedupe_key"),
    )
    with op.batch_alter_table("message_keys", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_message_keys_deleted_at"), ["deleted_at"], unique=False
        )

    op.create_table(
        "messages",
        sa.Column(
            "number",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("id", base.Id(length=16), nullable=False),
        sa.Column("organisation_id", base.Id(length=16), nullable=False),
        sa.Column("sequence", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("ingest_id", base.Id(length=16), nullable=False),
        sa.Column("dedupe_key", base.Key(length=32), nullable=False),
        sa.Column("recipient", sa.String(length=320), nullable=False),
        sa.Column("mailbox", sa.String(length=320), nullable=False),
        sa.Column("mail_from", sa.String(length=320), nullable=False),
        sa.Column("protocol", sa.String(length=8), nullable=False),
        sa.Column("client_address", sa.String(length=64), nullable=False),
        sa.Column("helo", sa.String(length=255), nullable=False),
        sa.Column("tls", sa.String(length=64), nullable=False),
        sa.Column("from_name", sa.Text(), nullable=False),
        sa.Column("from_address", sa.Text(), nullable=False),
        sa.Column("to_mailboxes", sa.JSON(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("snippet", sa.Text(), nullable=False),
        sa.Column(
            "attachments", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False
        ),
        sa.Column("size", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("received_at", base.Instant(), nullable=False),
        sa.Column("unparsed", sa.Boolean(), nullable=False),
        sa.Column("is_read", sa.Boolean(), nullable=False),
        sa.Column("tags", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("number"),
    )
    with op.batch_alter_table("messages", schema=None) as batch_op:
        batch_op.create_index("ix_messages_dedupe", ["organisation_id", "dedupe_key"], unique=True)
        batch_op.create_index("ix_messages_id", ["organisation_id", "id"], unique=True)
        batch_op.create_index(
            "ix_messages_mailbox", ["organisation_id", "mailbox", "id"], unique=False
        )
        batch_op.create_index("ix_messages_sequence", ["organisation_id", "sequence"], unique=True)

    op.create_table(
        "tiers",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("limits", sa.JSON(), nullable=False),
        sa.Column("features", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "usage",
        sa.Column("organisation_id", base.Id(length=16), nullable=False),
        sa.Column("period", sa.String(length=7), nullable=False),
        sa.Column("emails", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column(
            "emails_forgotten", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False
        ),
        sa.Column(
            "api_calls", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False
        ),
        sa.PrimaryKeyConstraint("organisation_id", "period"),
    )
    op.create_table(
        "users",
        sa.Column("id", base.Id(length=16), nullable=False),
        sa.Column("email", sa.String(length=320), nullable=False),
        sa.Column("password_hash", sa.String(length=255), nullable=False),
        sa.Column("email_verified", sa.Boolean(), nullable=False),
        sa.Column("platform_admin", sa.Boolean(), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("created_at", base.Instant(), nullable=False),
        sa.Column("last_seen_at", base.Instant(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("email"),
    )
    op.create_table(
        "organisations",
        sa.Column("id", base.Id(length=16), nullable=False),
        sa.Column("slug", sa.String(length=63), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("tier", sa.String(length=64), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("sequence", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column(
            "storage_bytes", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False
        ),
        sa.Column("created_at", base.Instant(), nullable=False),
        sa.ForeignKeyConstraint(
            ["tier"],
            ["tiers.name"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("slug"),
    )
    op.create_table(
        "addresses",
        sa.Column("id", base.Id(length=16), nullable=False),
        sa.Column("organisation_id", base.Id(length=16), nullable=False),
        sa.Column("address", sa.String(length=320), nullable=False),
        sa.Column("created_at", base.Instant(), nullable=False),
        sa.Column("deleted_at", base.Instant(), nullable=True),
        sa.ForeignKeyConstraint(
            ["organisation_id"],
            ["organisations.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("address"),
    )
    with op.batch_alter_table("addresses", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_addresses_organisation_id"), ["organisation_id"], unique=False
        )

    op.create_table(
        "api_tokens",
        sa.Column("id", base.Id(length=16), nullable=False),
        sa.Column("organisation_id", base.Id(length=16), nullable=False),
        sa.Column("created_by", base.Id(length=16), nullable=True),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("token_hash", base.Digest(length=32), nullable=False),
        sa.Column("scopes", sa.JSON(), nullable=False),
        sa.Column("created_at", base.Instant(), nullable=False),
        sa.Column("expires_at", base.Instant(), nullable=True),
        sa.Column("last_used_at", base.Instant(), nullable=True),
        sa.Column("revoked_at", base.Instant(), nullable=True),
        sa.ForeignKeyConstraint(
            ["created_by"],
            ["users.id"],
        ),
        sa.ForeignKeyConstraint(
            ["organisation_id"],
            ["organisations.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("token_hash"),
    )
    with op.batch_alter_table("api_tokens", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_api_tokens_organisation_id"), ["organisation_id"], unique=False
        )

    op.create_table(
        "memberships",
        sa.Column("user_id", base.Id(length=16), nullable=False),
        sa.Column("organisation_id", base.Id(length=16), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("created_at", base.Instant(), nullable=False),
        sa.ForeignKeyConstraint(
            ["organisation_id"],
            ["organisations.id"],
        ),
        sa.ForeignKeyConstraint(
            ["user_id"],
            ["users.id"],
        ),
        sa.PrimaryKeyConstraint("user_id", "organisation_id"),
    )
    with op.batch_alter_table("memberships", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_memberships_organisation_id"), ["organisation_id"], unique=False
        )

    op.create_table(
        "sessions",
        sa.Column("id", base.Id(length=16), nullable=False),
        sa.Column("user_id", base.Id(length=16), nullable=False),
        sa.Column("organisation_id", base.Id(length=16), nullable=False),
        sa.Column("user_agent", sa.String(length=400), nullable=False),
        sa.Column("client_address", sa.String(length=64), nullable=False),
        sa.Column("created_at", base.Instant(), nullable=False),
        sa.Column("last_seen_at", base.Instant(), nullable=False),
        sa.Column("revoked_at", base.Instant(), nullable=True),
        sa.Column("revoked_reason", sa.String(length=32), nullable=True),
        sa.ForeignKeyConstraint(
            ["organisation_id"],
            ["organisations.id"],
        ),
        sa.ForeignKeyConstraint(
            ["user_id"],
            ["users.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    with op.batch_alter_table("sessions", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_sessions_user_id"), ["user_id"], unique=False)

    op.create_table(
        "refresh_tokens",
        sa.Column(
            "number",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("session_id", base.Id(length=16), nullable=False),
        sa.Column("token_hash", base.Digest(length=32), nullable=False),
        sa.Column("created_at", base.Instant(), nullable=False),
        sa.Column("expires_at", base.Instant(), nullable=False),
        sa.Column("used_at", base.Instant(), nullable=True),
        sa.Column("successor", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.ForeignKeyConstraint(
            ["session_id"],
            ["sessions.id"],
        ),
        sa.PrimaryKeyConstraint("number"),
        sa.UniqueConstraint("token_hash"),
    )
    with op.batch_alter_table("refresh_tokens", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_refresh_tokens_session_id"), ["session_id"], unique=False
        )

    if op.get_bind().dialect.name == "sqlite":
        # Keyed by messages.number. columnsize=0: nothing is ranked, so nobody asks for lengths.
        op.execute(
            "CREATE VIRTUAL TABLE message_search USING fts5("
            "organisation, words, columnsize=0, tokenize='unicode61 remove_diacritics 2')"
        )
    else:
        op.create_table(
            "message_search",
            sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
            sa.Column("organisation_id", base.Id(length=16), nullable=False),
            sa.Column("words", mysql.MEDIUMTEXT(), nullable=False),
            sa.PrimaryKeyConstraint("number"),
        )
        op.create_table(
            "message_words",
            sa.Column("word", mysql.BINARY(8), nullable=False),
            sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
            sa.PrimaryKeyConstraint("word", "number"),
        )
