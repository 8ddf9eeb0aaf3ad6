"""People: users, and which organisations they belong to."""

from datetime import datetime

from sqlalchemy import ForeignKey, String, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from mailtape.domain.ids import UserId
from mailtape.rows.base import Id, IdKey, MailAddress, Row
from mailtape.rows.organisations import Organisation


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


def find(session: Session, user_id: UserId) -> User | None:
    """Read a user."""
    return session.get(User, user_id)


def find_by_email(session: Session, email: str) -> User | None:
    """Read a user by the normalised address they sign in with."""
    return session.scalar(select(User).where(User.email == email))


def home_of(session: Session, user_id: UserId) -> tuple[Membership, Organisation] | None:
    """Read where a user works after signing in: the organisation joined first that may act."""
    found = session.execute(
        select(Membership, Organisation)
        .join(Organisation, Organisation.id == Membership.organisation_id)
        .where(Membership.user_id == user_id, Organisation.status == "active")
        .order_by(Membership.created_at, Membership.organisation_id)
        .limit(1)
    ).one_or_none()
    return None if found is None else (found[0], found[1])


def find_membership(session: Session, user_id: UserId, organisation_id: bytes) -> Membership | None:
    """Read a user's part in an organisation."""
    return session.get(Membership, (user_id, organisation_id))
