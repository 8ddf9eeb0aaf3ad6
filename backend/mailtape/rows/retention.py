"""What goes when there is too much, or when nobody needs it any more."""

from collections.abc import Sequence
from datetime import datetime
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from mailtape.domain.ids import IngestId, OrganisationId
from mailtape.rows import messages, organisations
from mailtape.rows.events import MESSAGE_STORED, Event
from mailtape.rows.messages import Message, MessageKey
from mailtape.rows.organisations import Organisation
from mailtape.rows.usage import Usage

K = TypeVar("K", bound=tuple[IngestId, OrganisationId])


def excess(
    session: Session,
    organisation_id: OrganisationId,
    most_messages: int,
    most_bytes: int,
    limit: int,
) -> int:
    """Count how many of the oldest messages are too many, up to `limit`."""
    of_organisation = Message.organisation_id == organisation_id
    kept = session.scalar(select(func.count()).where(of_organisation)) or 0
    storage = session.scalar(
        select(Organisation.storage_bytes).where(Organisation.id == organisation_id)
    )
    over_bytes = (storage or 0) - most_bytes
    if kept > most_messages:
        return min(kept - most_messages, limit)
    if over_bytes <= 0:
        return 0
    oldest = select(Message.size).where(of_organisation).order_by(Message.id).limit(limit)
    for position, size in enumerate(session.scalars(oldest), start=1):
        over_bytes -= size
        if over_bytes <= 0:
            return position
    return min(kept, limit)


def delete_excess(
    session: Session,
    organisation_id: OrganisationId,
    most_messages: int,
    most_bytes: int,
    limit: int,
    *,
    now: datetime,
) -> messages.Deleted:
    """Delete as many of the oldest messages as are too many when nobody else can delete any."""
    organisations.lock_sequence(session, organisation_id)
    too_many = excess(session, organisation_id, most_messages, most_bytes, limit)
    return messages.delete_oldest(session, organisation_id, too_many, now=now)


def forget_events(session: Session, organisation_id: OrganisationId) -> None:
    """Delete the events that are older than every message left, and count them as forgotten.

    Those in between stay, their message gone or not: whoever resumes the stream finds no hole.
    """
    organisations.lock_sequence(session, organisation_id)  # who waited for it finds none left
    first_kept = session.scalar(
        select(func.min(Message.sequence)).where(Message.organisation_id == organisation_id)
    )
    if first_kept is None:
        return
    old = (Event.organisation_id == organisation_id, Event.sequence < first_kept)
    stored = (*old, Event.kind == MESSAGE_STORED)
    by_period = select(Event.period, func.count()).where(*stored).group_by(Event.period)
    for period, events in session.execute(by_period).all():
        session.execute(
            sa.update(Usage)
            .where(Usage.organisation_id == organisation_id, Usage.period == period)
            .values(emails_forgotten=Usage.emails_forgotten + events)
        )
    session.execute(sa.delete(Event).where(*old))


def forget_keys(session: Session, before: datetime) -> None:
    """Delete the keys of messages that were deleted before this time."""
    session.execute(sa.delete(MessageKey).where(MessageKey.deleted_at < before))


def without_rows(session: Session, keys: Sequence[K]) -> list[K]:
    """Tell which of these bodies no message names.

    An ingest id and the ids of its messages begin with the same millisecond, so the index on the
    id finds them.
    """
    return [key for key in keys if not session.scalar(select(_has_row(*key)))]


def _has_row(ingest_id: IngestId, organisation_id: OrganisationId) -> sa.Exists:
    millisecond = ingest_id[:6]
    return sa.exists().where(
        Message.organisation_id == organisation_id,
        Message.id.between(millisecond + bytes(10), millisecond + b"\xff" * 10),
        Message.ingest_id == ingest_id,
    )
