"""Counting again: whether rows, events, usage and search say the same. Reads, changes nothing.

Every question is asked for one page, so that no answer grows with the number of messages or events;
each names what is wrong by ids.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple, TypeVar

from sqlalchemy import Row, Select, and_, func, select
from sqlalchemy.orm import Session

from mailtape.domain.ids import IngestId, MessageId, OrganisationId
from mailtape.rows import body_names, search
from mailtape.rows.events import MESSAGE_STORED, Event
from mailtape.rows.messages import Message
from mailtape.rows.organisations import Organisation
from mailtape.rows.usage import Usage
from mailtape.rows.word_index import Look

K = TypeVar("K", bound=tuple[IngestId, OrganisationId])


class Account(NamedTuple):
    """What an organisation's own row says."""

    id: OrganisationId
    slug: str
    sequence: int
    storage_bytes: int


class MessageFacts(NamedTuple):
    """What a message's row says of its body and its event."""

    number: int
    id: MessageId
    organisation_id: OrganisationId
    ingest_id: IngestId
    sequence: int
    size: int
    attachments: int


class EventFacts(NamedTuple):
    """What is counted of an event."""

    sequence: int
    kind: str
    period: str


class Month(NamedTuple):
    """One month's usage, as kept."""

    emails: int
    forgotten: int


def accounts(session: Session) -> list[Account]:
    """List every organisation."""
    return [
        Account(OrganisationId(row.id), row.slug, row.sequence, row.storage_bytes)
        for row in session.scalars(select(Organisation).order_by(Organisation.id))
    ]


def messages(session: Session, after: int, most: int) -> list[MessageFacts]:
    """List messages by number."""
    return [
        _facts(row)
        for row in session.execute(
            _messages().where(Message.number > after).order_by(Message.number).limit(most)
        )
    ]


def count(session: Session, after: int, most: int) -> tuple[int, int | None]:
    """Count messages by number, up to so many; tells the last one's number if there may be more."""
    beyond = select(Message.number).where(Message.number > after)
    last = session.scalar(beyond.order_by(Message.number).offset(most - 1).limit(1))
    if last is not None:
        return most, last
    return session.scalar(select(func.count()).select_from(beyond.subquery())) or 0, None


def of_bodies(session: Session, keys: Sequence[K]) -> dict[K, list[MessageFacts]]:
    """List the messages of each body."""
    found: dict[K, list[MessageFacts]] = {key: [] for key in keys}
    for chunk in body_names.chunks(keys):
        of_chunk: dict[tuple[bytes, bytes], list[MessageFacts]] = {key: found[key] for key in chunk}
        for row in session.execute(_of_bodies(len(chunk)), body_names.asked(chunk)):
            message = _facts(row)
            if (body := of_chunk.get((message.ingest_id, message.organisation_id))) is not None:
                body.append(message)
    return found


@lru_cache  # to make such a statement takes longer than to run it
def _of_bodies(bodies: int) -> Select[int, bytes, bytes, bytes, int, int, int]:
    return _messages().where(body_names.may_name(bodies))


def stored_without_message(
    session: Session, organisation_id: OrganisationId, after: int, most: int
) -> tuple[set[bytes], int | None]:
    """Tell of which milliseconds messages were, of a page of events, that are deleted.

    Also gives the number of the page's last event; None when the page is empty.
    """
    page = (
        select(Event.sequence, Event.kind, Event.message_id, Message.number.is_(None))
        .outerjoin(
            Message,
            and_(Message.organisation_id == organisation_id, Message.id == Event.message_id),
        )
        .where(Event.organisation_id == organisation_id, Event.sequence > after)
        .order_by(Event.sequence)
        .limit(most)
    )
    events = session.execute(page).all()
    milliseconds = {
        message_id[:6]
        for _, kind, message_id, is_gone in events
        if kind == MESSAGE_STORED and is_gone
    }
    return milliseconds, events[-1][0] if events else None


def sizes(
    session: Session, organisation_id: OrganisationId, after: int, most: int
) -> list[tuple[int, int]]:
    """List sequence and raw bytes of an organisation's messages by sequence."""
    page = (
        select(Message.sequence, Message.size)
        .where(Message.organisation_id == organisation_id, Message.sequence > after)
        .order_by(Message.sequence)
        .limit(most)
    )
    return [(sequence, size) for sequence, size in session.execute(page)]


def events(
    session: Session, organisation_id: OrganisationId, after: int, most: int
) -> list[EventFacts]:
    """List an organisation's events by number."""
    page = (
        select(Event.sequence, Event.kind, Event.period)
        .where(Event.organisation_id == organisation_id, Event.sequence > after)
        .order_by(Event.sequence)
        .limit(most)
    )
    return [EventFacts(*row) for row in session.execute(page)]


def months(session: Session, organisation_id: OrganisationId) -> dict[str, Month]:
    """List what is kept of an organisation's months."""
    kept = session.scalars(select(Usage).where(Usage.organisation_id == organisation_id))
    return {row.period: Month(row.emails, row.emails_forgotten) for row in kept}


def without_event(session: Session, after: int, until: int) -> list[MessageFacts]:
    """List messages, by number, that do not have exactly the event of their own."""
    own = and_(
        Event.organisation_id == Message.organisation_id,
        Event.sequence == Message.sequence,
        Event.message_id == Message.id,
        Event.kind == MESSAGE_STORED,
    )
    lacking = (
        _messages()
        .outerjoin(Event, own)
        .where(Message.number > after, Message.number <= until, Event.sequence.is_(None))
    )
    return [_facts(row) for row in session.execute(lacking)]


def without_search(session: Session, after: int, until: int) -> list[MessageFacts]:
    """List messages, by number, that cannot be found: no entry, or another message's."""
    begins_with = Message.recipient + " " + Message.mail_from + " " + Message.subject
    told = select(Message.number, Message.organisation_id, begins_with).where(
        Message.number > after, Message.number <= until
    )
    lacking = search.lacking(session, told)
    return [_facts(row) for row in session.execute(_messages().where(Message.number.in_(lacking)))]


def search_entries(session: Session, after: int, most: int) -> Sequence[int]:
    """List the numbers that search has entries of."""
    return search.entries(session, after, most)


def without_message(session: Session, numbers: Sequence[int]) -> list[int]:
    """Tell which of these numbers no message has."""
    known = set(session.scalars(select(Message.number).where(Message.number.in_(numbers))))
    return [number for number in numbers if number not in known]


def look_at_search(session: Session, so_far: Look) -> Look:
    """Look at one more page of the search index; see `search.look`."""
    return search.look(session, so_far)


def _messages() -> Select[int, bytes, bytes, bytes, int, int, int]:
    return select(
        Message.number,
        Message.id,
        Message.organisation_id,
        Message.ingest_id,
        Message.sequence,
        Message.size,
        Message.attachments,
    )


def _facts(row: Row[int, bytes, bytes, bytes, int, int, int]) -> MessageFacts:
    number, identity, organisation_id, ingest_id, sequence, size, attachments = row
    return MessageFacts(
        number,
        MessageId(identity),
        OrganisationId(organisation_id),
        IngestId(ingest_id),
        sequence,
        size,
        attachments,
    )
