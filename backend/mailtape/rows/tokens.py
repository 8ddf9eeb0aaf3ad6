"""API and service tokens: shown once, kept as a salted hash."""

from datetime import datetime

from sqlalchemy import JSON, ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from mailtape.rows.base import Digest, Id, IdKey, Name, Row


class ApiToken(Row):
    """A token of an organisation, for programs."""

    __tablename__ = "api_tokens"

    id: Mapped[IdKey]
    organisation_id: Mapped[bytes] = mapped_column(Id, ForeignKey("organisations.id"), index=True)
    created_by: Mapped[bytes | None] = mapped_column(Id, ForeignKey("users.id"))
    name: Mapped[Name]
    token_hash: Mapped[bytes] = mapped_column(Digest, unique=True)
    scopes: Mapped[list[str]] = mapped_column(JSON)
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
