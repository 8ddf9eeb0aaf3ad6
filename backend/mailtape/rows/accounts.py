"""People: users, and which organisations they belong to."""

from datetime import datetime

from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from mailtape.rows.base import Id, IdKey, MailAddress, Row


class User(Row):
    """A person who signs in."""

    __tablename__ = "users"

    id: Mapped[IdKey]
    email: Mapped[MailAddress] = mapped_column(unique=True)
    """In lower case."""
    password_hash: Mapped[str] = mapped_column(String(255))
    email_verified: Mapped[bool] = mapped_column(default=False)
    platform_admin: Mapped[bool] = mapped_column(default=False)
    status: Mapped[str] = mapped_column(String(16), default="active")
    created_at: Mapped[datetime]
    last_seen_at: Mapped[datetime | None]


class Membership(Row):
    """A user's part in an organisation."""

    __tablename__ = "memberships"

    user_id: Mapped[bytes] = mapped_column(Id, ForeignKey("users.id"), primary_key=True)
    organisation_id: Mapped[bytes] = mapped_column(
        Id, ForeignKey("organisations.id"), primary_key=True, index=True
    )
    role: Mapped[str] = mapped_column(String(16))
    """owner, admin or member."""
    created_at: Mapped[datetime]
