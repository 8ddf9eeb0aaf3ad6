"""Addresses that organisations have taken."""

from datetime import datetime

from sqlalchemy import ForeignKey, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from mailtape.rows.base import Id, IdKey, MailAddress, Row


class Address(Row):
    """One address. A deleted one keeps its row: it is never given to another organisation."""

    __tablename__ = "addresses"

    id: Mapped[IdKey]
    organisation_id: Mapped[bytes] = mapped_column(Id, ForeignKey("organisations.id"), index=True)
    address: Mapped[MailAddress] = mapped_column(unique=True)
    """In lower case, without a plus-tag."""
    created_at: Mapped[datetime]
    deleted_at: Mapped[datetime | None]


def find(session: Session, address: str) -> Address | None:
    """Read an address, deleted or not."""
    return session.scalar(select(Address).where(Address.address == address))
