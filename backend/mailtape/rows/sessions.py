"""Sign-ins: one session a device, and the family of refresh tokens that keeps it alive."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import ForeignKey, String, bindparam, select, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from mailtape.domain.ids import OrganisationId, SessionId, UserId
from mailtape.rows.accounts import Membership, User
from mailtape.rows.base import Digest, Id, IdKey, NumberKey, Row
from mailtape.rows.organisations import Organisation


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
    """When it arrived last, as far as it was the same request made again."""
    successor: Mapped[int | None]
    """`number` of the token that replaced this one."""


class SignIn(NamedTuple):
    """A session with whoever it belongs to, as they stand now."""

    session: SessionRow
    user: User
    organisation: Organisation
    membership: Membership | None
    """None when the user has left the organisation."""


_SIGN_IN = (  # made once: it is asked at every request
    select(SessionRow, User, Organisation, Membership)
    .join(User, User.id == SessionRow.user_id)
    .join(Organisation, Organisation.id == SessionRow.organisation_id)
    .outerjoin(
        Membership,
        (Membership.user_id == SessionRow.user_id)
        & (Membership.organisation_id == SessionRow.organisation_id),
    )
    .where(SessionRow.id == bindparam("session_id"))
)


def find_sign_in(session: Session, session_id: SessionId) -> SignIn | None:
    """Read a session of anybody, with its user, organisation and role."""
    found = session.execute(_SIGN_IN, {"session_id": session_id}).one_or_none()
    return None if found is None else SignIn(*found)


def find_refresh(session: Session, token_hash: bytes) -> RefreshToken | None:
    """Read a refresh token by its hash, used or not; a writer holds its row until the end."""
    return session.scalar(
        select(RefreshToken).where(RefreshToken.token_hash == token_hash).with_for_update()
    )


def owner_of_refresh(session: Session, token_hash: bytes) -> UserId | None:
    """Tell whose refresh token this is."""
    found = session.scalar(
        select(SessionRow.user_id)
        .join(RefreshToken, RefreshToken.session_id == SessionRow.id)
        .where(RefreshToken.token_hash == token_hash)
    )
    return None if found is None else UserId(found)


def successor_of(session: Session, token: RefreshToken) -> RefreshToken | None:
    """Read the token that replaced this one; None when it is fresh."""
    return None if token.successor is None else session.get(RefreshToken, token.successor)


def last_used_at(session: Session, token_hash: bytes) -> datetime | None:
    """Tell when a refresh token arrived last."""
    return session.scalar(select(RefreshToken.used_at).where(RefreshToken.token_hash == token_hash))


def use_refresh(session: Session, token: RefreshToken, successor: RefreshToken) -> None:
    """Use a token up and write its successor."""
    session.add(successor)
    session.flush()
    token.used_at = successor.created_at
    token.successor = successor.number


def live_of_user(
    session: Session,
    user_id: UserId,
    *,
    created_since: datetime,
    seen_since: datetime,
    after: bytes | None,
    most: int,
) -> Sequence[SessionRow]:
    """List a user's sessions that have not ended, newest first, from below `after` on."""
    chosen = select(SessionRow).where(
        SessionRow.user_id == user_id,
        SessionRow.revoked_at.is_(None),
        SessionRow.created_at > created_since,
        SessionRow.last_seen_at > seen_since,
    )
    if after is not None:
        chosen = chosen.where(SessionRow.id < after)
    return session.scalars(chosen.order_by(SessionRow.id.desc()).limit(most)).all()


def revoke(
    session: Session, user_id: UserId, session_id: SessionId, reason: str, now: datetime
) -> OrganisationId | None:
    """End one session; gives its organisation, or None when the user has no live one of this id."""
    row = session.get(SessionRow, session_id)
    if row is None or row.user_id != user_id or row.revoked_at is not None:
        return None
    row.revoked_at, row.revoked_reason = now, reason
    session.flush()
    return OrganisationId(row.organisation_id)


def revoke_all(
    session: Session, user_id: UserId, reason: str, now: datetime
) -> frozenset[OrganisationId]:
    """End all sessions of a user; gives the organisations that they were in."""
    live = (SessionRow.user_id == user_id, SessionRow.revoked_at.is_(None))
    organisation_ids = session.scalars(select(SessionRow.organisation_id).where(*live)).all()
    session.execute(update(SessionRow).where(*live).values(revoked_at=now, revoked_reason=reason))
    return frozenset(map(OrganisationId, organisation_ids))
