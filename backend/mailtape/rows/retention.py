"""What goes when there is too much, or when nobody needs it any more."""

from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from mailtape.domain.ids import IngestId, OrganisationId
from mailtape.rows import body_names, messages, organisations
from mailtape.rows.bulk import delete_some
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


def forget_events(session: Session, organisation_id: OrganisationId, most: int) -> int:
    """Delete the events that are older than every message left, and count them as forgotten.

    Those in between stay, their message gone or not: whoever resumes the stream finds no hole.
    The oldest `most` at the most; tells how many there were.
    """
    organisations.lock_sequence(session, organisation_id)  # who waited for it finds none left
    first_kept, first = (
        session.scalar(select(func.min(of.sequence)).where(of.organisation_id == organisation_id))
        for of in (Message, Event)
    )
    if first_kept is None or first is None or first >= first_kept:
        return 0
    until = min(first_kept, first + most)
    old = (Event.organisation_id == organisation_id, Event.sequence < until)
    stored = (*old, Event.kind == MESSAGE_STORED)
    by_period = select(Event.period, func.count()).where(*stored).group_by(Event.period)
    for period, events in session.execute(by_period).all():
        session.execute(
            sa.update(Usage)
            .where(Usage.organisation_id == organisation_id, Usage.period == period)
            .values(emails_forgotten=Usage.emails_forgotten + events)
        )
    session.execute(sa.delete(Event).where(*old))
    return until - first


def forget_keys(session: Session, before: datetime, most: int) -> int:
    """Delete up to so many keys of messages that were deleted before this time; tell how many."""
    return delete_some(session, MessageKey, MessageKey.deleted_at < before, most)


def without_rows(session: Session, keys: Sequence[K]) -> list[K]:
    """Tell which of these bodies no message names."""
    named = {
        (row.ingest_id, row.organisation_id)
        for chunk in body_names.chunks(keys)
        for row in session.execute(_named(len(chunk)), body_names.asked(chunk))
    }
    return [key for key in keys if key not in named]


@lru_cache  # to make such a statement takes longer than to run it
def _named(bodies: int) -> sa.Select[bytes, bytes]:
    columns = select(Message.ingest_id, Message.organisation_id).distinct()
    return columns.where(body_names.may_name(bodies))
