"""Events, numbered without holes within their organisation.

One for every stored message, and one for whatever was refused at an address, for one reason, within
one minute.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import JSON, String, and_, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from mailtape.domain.event import RefusedMail, StoredEvent
from mailtape.domain.ids import MessageId, OrganisationId, new_id
from mailtape.rows.base import Digest, Id, Row
from mailtape.rows.messages import LISTED, Message, listed
from mailtape.rows.organisations import Organisation, lock_sequence, take_sequences

MESSAGE_STORED = "message.stored"
MESSAGE_REFUSED = "message.refused"


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
    facts: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    """What an event says that is about no message."""
    held: Mapped[bytes | None] = mapped_column(Digest)
    """The name of what was held for the stored mail, see `rows.holds`; it outlives the message."""


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
        select(Event.sequence, Event.kind, Event.message_id, Event.created_at, Event.facts, *LISTED)
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
            refused=_refused(facts),
        )
        for sequence, kind, message_id, created_at, facts, *columns in session.execute(statement)
    ]


def held_before(
    session: Session, organisation_id: OrganisationId, since: datetime, most: int
) -> set[bytes]:
    """Name what was held for mail that has been stored since then.

    No more than the `most` newest events are looked at.
    """
    newest = last_sequence(session, organisation_id)
    statement = select(Event.held).where(
        Event.organisation_id == organisation_id,
        Event.sequence > newest - most,
        Event.created_at >= since,
        Event.held.is_not(None),
    )
    return {held for held in session.scalars(statement) if held is not None}


def add_refusals(
    session: Session,
    organisation_id: OrganisationId,
    refusals: Sequence[RefusedMail],
    now: datetime,
) -> None:
    """Write an event for each, under the organisation's next numbers."""
    first = lock_sequence(session, organisation_id) + 1
    take_sequences(session, organisation_id, len(refusals), 0)
    now_ms = int(now.timestamp() * 1000)
    session.add_all(
        Event(
            organisation_id=organisation_id,
            sequence=sequence,
            kind=MESSAGE_REFUSED,
            message_id=new_id(now_ms),
            period=f"{refused.minute:%Y-%m}",
            created_at=now,
            facts={
                "address": refused.address,
                "reason": refused.reason,
                "minute": refused.minute.isoformat(),
                "count": refused.count,
            },
        )
        for sequence, refused in enumerate(refusals, start=first)
    )


def _refused(facts: dict[str, Any] | None) -> RefusedMail | None:
    if facts is None:
        return None
    return RefusedMail(
        address=facts["address"],
        reason=facts["reason"],
        minute=datetime.fromisoformat(facts["minute"]),
        count=facts["count"],
    )
