"""Organisations: the tenants. Every other row but a user's belongs to one of them."""

from collections.abc import Iterable
from datetime import datetime

from sqlalchemy import ForeignKey, String, bindparam, select, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from mailtape.domain import ids
from mailtape.domain.account import LOCAL_SLUG, Status
from mailtape.domain.ids import OrganisationId
from mailtape.rows.base import IdKey, Name, Row


class Organisation(Row):
    """A tenant, and the two figures that change under its lock."""

    __tablename__ = "organisations"

    id: Mapped[IdKey]
    slug: Mapped[str] = mapped_column(String(63), unique=True)
    """Its subdomain of DOMAIN: one DNS label, never given to another organisation."""
    name: Mapped[Name]
    tier: Mapped[str] = mapped_column(String(64), ForeignKey("tiers.name"))
    status: Mapped[str] = mapped_column(String(16), default="active")
    """active, suspended or deleted."""
    sequence: Mapped[int] = mapped_column(default=0)
    """The last event's number; taken and raised in the transaction that stores the events."""
    storage_bytes: Mapped[int] = mapped_column(default=0)
    """Raw bytes of the messages that stand in rows now."""
    arrival_us: Mapped[int] = mapped_column(default=0, server_default="0")
    """GCRA's theoretical arrival time of its next mail, where the rate is counted in rows."""
    created_at: Mapped[datetime]


_TAKE = (
    update(Organisation)
    .where(Organisation.id == bindparam("of"))
    .values(
        sequence=Organisation.sequence + bindparam("events"),
        storage_bytes=Organisation.storage_bytes + bindparam("bytes"),
    )
)
NOBODY = OrganisationId(bytes(16))
"""No organisation's id."""
_LOCK = select(Organisation.sequence).where(Organisation.id == bindparam("of")).with_for_update()


def add(session: Session, *, slug: str, name: str, tier: str, now: datetime) -> Organisation:
    """Write a new, active organisation that has no mail; its slug is nobody else's."""
    organisation = Organisation(
        id=ids.new_id(int(now.timestamp() * 1000)),
        slug=slug,
        name=name,
        tier=tier,
        status=Status.ACTIVE,
        sequence=0,
        storage_bytes=0,
        created_at=now,
    )
    session.add(organisation)
    session.flush()
    return organisation


def find(session: Session, organisation_id: OrganisationId) -> Organisation | None:
    """Read an organisation."""
    return session.get(Organisation, organisation_id)


def find_by_slug(session: Session, slug: str) -> Organisation | None:
    """Read an organisation by its subdomain."""
    return session.scalar(select(Organisation).where(Organisation.slug == slug))


def find_local(session: Session) -> OrganisationId:
    """Name the organisation that every installation has from its first start."""
    organisation = find_by_slug(session, LOCAL_SLUG)
    assert organisation is not None, "the first start makes it"  # noqa: S101
    return OrganisationId(organisation.id)


def storage(session: Session, organisation_ids: Iterable[OrganisationId]) -> dict[bytes, int]:
    """Read the raw bytes that each of these has stored."""
    found = session.execute(
        select(Organisation.id, Organisation.storage_bytes).where(
            Organisation.id.in_(organisation_ids)
        )
    )
    return dict(found.all())


def change_nothing(session: Session) -> None:
    """Send a change that finds no row: a server has to run it, and nobody has to wait for it."""
    session.execute(update(Organisation).where(Organisation.id == NOBODY).values(name=""))


def lock(session: Session, organisation_id: OrganisationId) -> Organisation:
    """Read an organisation and hold its row until the end of the transaction."""
    return session.get_one(Organisation, organisation_id, with_for_update=True)


def lock_sequence(session: Session, organisation_id: OrganisationId) -> int:
    """Hold an organisation's row until the end of the transaction; returns its last sequence.

    Until then nobody else stores, deletes or numbers anything in it, so what is read afterwards is
    true when it is written: on MySQL by the row's lock, on SQLite because there is one writer.
    """
    last = session.connection().scalar(_LOCK, {"of": organisation_id})
    assert last is not None, "organisations are never deleted while they have mail"  # noqa: S101
    return int(last)


def take_sequences(
    session: Session, organisation_id: OrganisationId, events: int, storage_bytes: int
) -> None:
    """Take the next `events` numbers after the last and add to the storage; the row is held."""
    session.connection().execute(
        _TAKE, {"of": organisation_id, "events": events, "bytes": storage_bytes}
    )
