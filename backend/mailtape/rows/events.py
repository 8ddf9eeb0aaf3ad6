"""Events: one for every stored message, numbered without holes within its organisation."""

from datetime import datetime

from sqlalchemy import String, and_, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from mailtape.domain.event import StoredEvent
from mailtape.domain.ids import MessageId, OrganisationId
from mailtape.rows.base import Id, Row
from mailtape.rows.messages import LISTED, Message, listed
from mailtape.rows.organisations import Organisation

MESSAGE_STORED = "message.stored"


class Event(Row):
    """Something that happened in an organisation; committed with the row it tells of."""

    __tablename__ = "events"

    organisation_id: Mapped[bytes] = mapped_column(Id, primary_key=True)
    sequence: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    kind: Mapped[str] = mapped_column(String(32))
    message_id: Mapped[bytes] = mapped_column(Id)
    period: Mapped[str] = mapped_column(String(7))
    """The month that the message counts in."""
    created_at: Mapped[datetime]


def last_sequence(session: Session, organisation_id: OrganisationId) -> int:
    """Read the number of the newest event; 0 before the first."""
    statement = select(Organisation.sequence).where(Organisation.id == organisation_id)
    return session.scalar(statement) or 0


def page(
    session: Session, organisation_id: OrganisationId, *, after: int, limit: int
) -> list[StoredEvent]:
    """List the events after a number, oldest first, each with its message as it is now."""
    message_of_event = and_(
        Message.organisation_id == Event.organisation_id, Message.id == Event.message_id
    )
    statement = (
        select(Event.sequence, Event.kind, Event.message_id, Event.created_at, *LISTED)
        .outerjoin(Message, message_of_event)
        .where(Event.organisation_id == organisation_id, Event.sequence > after)
        .order_by(Event.sequence)
        .limit(limit)
    )
    return [
        StoredEvent(
            sequence=sequence,
            kind=kind,
            message_id=MessageId(message_id),
            created_at=created_at,
            message=None if columns[0] is None else listed(columns),
        )
        for sequence, kind, message_id, created_at, *columns in session.execute(statement)
    ]
