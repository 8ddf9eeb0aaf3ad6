"""API and service tokens: shown once, kept as a salted hash."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import JSON, ForeignKey, bindparam, select, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from mailtape.domain.ids import OrganisationId, TokenId
from mailtape.rows.base import Digest, Id, IdKey, Name, Row, changed
from mailtape.rows.organisations import Organisation


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


class Standing(NamedTuple):
    """What a token is good for now."""

    id: bytes
    organisation_id: bytes
    scopes: list[str]
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None
    organisation_status: str


# Asked at every request: made once, and without an object that could be changed.
_STANDING = (
    select(
        ApiToken.id,
        ApiToken.organisation_id,
        ApiToken.scopes,
        ApiToken.expires_at,
        ApiToken.last_used_at,
        ApiToken.revoked_at,
        Organisation.status,
    )
    .join(Organisation, Organisation.id == ApiToken.organisation_id)
    .where(ApiToken.token_hash == bindparam("token_hash"))
)


def find_standing(session: Session, token_hash: bytes) -> Standing | None:
    """Read how a token of any organisation stands, by its hash."""
    found = session.connection().execute(_STANDING, {"token_hash": token_hash}).one_or_none()
    return None if found is None else Standing(*found)


def find(session: Session, token_hash: bytes) -> ApiToken | None:
    """Read a token of any organisation by its hash, to change it."""
    return session.scalar(select(ApiToken).where(ApiToken.token_hash == token_hash))


def live(
    session: Session, organisation_id: OrganisationId, after: bytes | None, most: int
) -> Sequence[ApiToken]:
    """List the tokens that are not revoked, newest first, from below `after` on."""
    chosen = select(ApiToken).where(
        ApiToken.organisation_id == organisation_id, ApiToken.revoked_at.is_(None)
    )
    if after is not None:
        chosen = chosen.where(ApiToken.id < after)
    return session.scalars(chosen.order_by(ApiToken.id.desc()).limit(most)).all()


def revoke(
    session: Session, organisation_id: OrganisationId, token_id: TokenId, now: datetime
) -> bool:
    """Revoke a token; False when the organisation has no live one of this id."""
    return changed(
        session,
        update(ApiToken)
        .where(
            ApiToken.id == token_id,
            ApiToken.organisation_id == organisation_id,
            ApiToken.revoked_at.is_(None),
        )
        .values(revoked_at=now),
    )


def note_use(session: Session, token_id: TokenId, now: datetime) -> None:
    """Write down when a token was last used."""
    session.execute(update(ApiToken).where(ApiToken.id == token_id).values(last_used_at=now))
