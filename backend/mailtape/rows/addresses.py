"""Addresses that organisations have taken."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import ForeignKey, func, select, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from mailtape.domain.ids import AddressId, OrganisationId
from mailtape.rows.base import Id, IdKey, MailAddress, Row, changed


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


def live(
    session: Session, organisation_id: OrganisationId, after: bytes | None, most: int
) -> Sequence[Address]:
    """List the addresses that take mail, newest first, from below `after` on."""
    chosen = select(Address).where(
        Address.organisation_id == organisation_id, Address.deleted_at.is_(None)
    )
    if after is not None:
        chosen = chosen.where(Address.id < after)
    return session.scalars(chosen.order_by(Address.id.desc()).limit(most)).all()


def count_live(session: Session, organisation_id: OrganisationId) -> int:
    """Count the addresses that take mail."""
    counted = session.scalar(
        select(func.count())
        .select_from(Address)
        .where(Address.organisation_id == organisation_id, Address.deleted_at.is_(None))
    )
    return counted or 0


def delete(
    session: Session, organisation_id: OrganisationId, address_id: AddressId, now: datetime
) -> bool:
    """Mark an address as given up; False when the organisation has no live one of this id."""
    return changed(
        session,
        update(Address)
        .where(
            Address.id == address_id,
            Address.organisation_id == organisation_id,
            Address.deleted_at.is_(None),
        )
        .values(deleted_at=now),
    )
