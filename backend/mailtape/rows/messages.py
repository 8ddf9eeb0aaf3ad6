"""Messages: what lists show, and the keys by which a message is found and never doubled."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from mailtape.rows.base import Id, Key, MailAddress, NumberKey, Row


class Message(Row):
    """One accepted recipient of one mail.

    No foreign key here nor in `events` and `usage`: they would be looked up for every mail, and
    MySQL has none on tables that are partitioned by month.
    """

    __tablename__ = "messages"
    __table_args__ = (
        Index("ix_messages_id", "organisation_id", "id", unique=True),
        Index("ix_messages_sequence", "organisation_id", "sequence", unique=True),
        Index("ix_messages_mailbox", "organisation_id", "mailbox", "id"),
        Index("ix_messages_dedupe", "organisation_id", "dedupe_key", unique=True),
    )

    number: Mapped[NumberKey]
    """Order of storing, and the key of the search entry; never shown outside."""
    id: Mapped[bytes] = mapped_column(Id)
    organisation_id: Mapped[bytes] = mapped_column(Id)
    sequence: Mapped[int]
    """The number of its event."""
    ingest_id: Mapped[bytes] = mapped_column(Id)
    """The transaction; with the organisation it names the body."""
    dedupe_key: Mapped[bytes] = mapped_column(Key)
    """What makes a second delivery of the same mail recognisable; the id itself for direct mail."""
    recipient: Mapped[MailAddress]
    mailbox: Mapped[MailAddress]
    mail_from: Mapped[MailAddress]
    protocol: Mapped[str] = mapped_column(String(8))
    client_address: Mapped[str] = mapped_column(String(64))
    helo: Mapped[str] = mapped_column(String(255))
    tls: Mapped[str] = mapped_column(String(64))
    from_name: Mapped[str] = mapped_column(Text)
    from_address: Mapped[str] = mapped_column(Text)
    to: Mapped[list[list[str]]] = mapped_column("to_mailboxes", JSON)
    """Name and address of each mailbox in the To header."""
    subject: Mapped[str] = mapped_column(Text)
    snippet: Mapped[str] = mapped_column(Text)
    attachments: Mapped[int]
    size: Mapped[int]
    """Raw bytes."""
    received_at: Mapped[datetime]
    unparsed: Mapped[bool] = mapped_column(default=False)
    read: Mapped[bool] = mapped_column("is_read", default=False)
    tags: Mapped[list[str]] = mapped_column(JSON, default=list[Any])


class MessageKey(Row):
    """The dedupe key of a deleted message, kept for seven days against a late replay."""

    __tablename__ = "message_keys"

    organisation_id: Mapped[bytes] = mapped_column(Id, primary_key=True)
    dedupe_key: Mapped[bytes] = mapped_column(Key, primary_key=True)
    deleted_at: Mapped[datetime] = mapped_column(index=True)
