"""Sign-ins: one session a device, and the family of refresh tokens that keeps it alive."""

from datetime import datetime

from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from mailtape.rows.base import Digest, Id, IdKey, NumberKey, Row


class SessionRow(Row):
    """A signed-in device; revoking it ends its access tokens at once."""

    __tablename__ = "sessions"

    id: Mapped[IdKey]
    user_id: Mapped[bytes] = mapped_column(Id, ForeignKey("users.id"), index=True)
    organisation_id: Mapped[bytes] = mapped_column(Id, ForeignKey("organisations.id"))
    """The organisation that the session works in."""
    user_agent: Mapped[str] = mapped_column(String(400), default="")
    client_address: Mapped[str] = mapped_column(String(64), default="")
    created_at: Mapped[datetime]
    last_seen_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]
    revoked_reason: Mapped[str | None] = mapped_column(String(32))


class RefreshToken(Row):
    """One link of a refresh token family; the family is the session."""

    __tablename__ = "refresh_tokens"

    number: Mapped[NumberKey]
    session_id: Mapped[bytes] = mapped_column(Id, ForeignKey("sessions.id"), index=True)
    token_hash: Mapped[bytes] = mapped_column(Digest, unique=True)
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    used_at: Mapped[datetime | None]
    successor: Mapped[int | None]
    """`number` of the token that replaced this one."""
