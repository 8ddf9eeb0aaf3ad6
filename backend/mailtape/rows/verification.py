"""Counting again: whether rows, events, usage and search say the same. Reads, changes nothing.

Every question is asked for one organisation or one page, so that no answer grows with the number
of messages; each names what is wrong by ids.
"""

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from sqlalchemy import (
    LargeBinary,
    Row,
    Select,
    and_,
    exists,
    func,
    select,
)
from sqlalchemy.orm import Session

from mailtape.domain.ids import IngestId, MessageId, OrganisationId
from mailtape.rows import search
from mailtape.rows.events import MESSAGE_STORED, Event
from mailtape.rows.messages import Message
from mailtape.rows.organisations import Organisation
from mailtape.rows.usage import Usage

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


class EventNumbers(NamedTuple):
    """What the events of an organisation are, counted."""

    events: int
    first: int
    last: int


class Month(NamedTuple):
    """One month's usage, as kept and as counted."""

    period: str
    emails: int
    forgotten: int
    events: int


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


def count(session: Session) -> int:
    """Count the messages of all organisations."""
    return session.scalar(select(func.count()).select_from(Message)) or 0


def of_bodies(session: Session, keys: Sequence[K]) -> dict[K, list[MessageFacts]]:
    """List the messages of each body; the ids of those begin with the ingest id's millisecond."""
    return {key: _of_body(session, *key) for key in keys}


def _of_body(
    session: Session, ingest_id: IngestId, organisation_id: OrganisationId
) -> list[MessageFacts]:
    millisecond = ingest_id[:6]
    found = _messages().where(
        Message.organisation_id == organisation_id,
        Message.id.between(millisecond + bytes(10), millisecond + b"\xff" * 10),
        Message.ingest_id == ingest_id,
    )
    return [_facts(row) for row in session.execute(found)]


def deleted(
    session: Session, organisation_id: OrganisationId, ingest_ids: Sequence[IngestId]
) -> set[IngestId]:
    """Tell which of these mails, that have no message, had one that was deleted.

    An event tells of it: one whose message is gone, and whose message's id has the millisecond of
    the ingest id.
    """
    millisecond = func.substr(Event.message_id, 1, 6, type_=LargeBinary)
    has_row = exists().where(
        Message.organisation_id == organisation_id, Message.id == Event.message_id
    )
    told = set(
        session.scalars(
            select(millisecond).where(
                Event.organisation_id == organisation_id,
                Event.kind == MESSAGE_STORED,
                millisecond.in_([ingest_id[:6] for ingest_id in ingest_ids]),
                ~has_row,
            )
        )
    )
    return {ingest_id for ingest_id in ingest_ids if ingest_id[:6] in told}


def storage(session: Session, organisation_id: OrganisationId) -> int:
    """Add up the raw bytes of an organisation's messages."""
    total = select(func.coalesce(func.sum(Message.size), 0))
    added = session.scalar(total.where(Message.organisation_id == organisation_id)) or 0
    return int(added)  # MySQL adds whole numbers up to a decimal


def event_numbers(session: Session, organisation_id: OrganisationId) -> EventNumbers:
    """Count an organisation's events; an organisation without any has 0 of everything."""
    counted = select(
        func.count(),
        func.coalesce(func.min(Event.sequence), 0),
        func.coalesce(func.max(Event.sequence), 0),
    ).where(Event.organisation_id == organisation_id)
    return EventNumbers(*session.execute(counted).one())


def holes(session: Session, organisation_id: OrganisationId, most: int) -> list[tuple[int, int]]:
    """List the gaps in an organisation's events as first and last missing number."""
    numbered = (
        select(
            Event.sequence.label("sequence"),
            func.lag(Event.sequence).over(order_by=Event.sequence).label("before"),
        )
        .where(Event.organisation_id == organisation_id)
        .subquery()
    )
    gaps = (
        select(numbered.c.before + 1, numbered.c.sequence - 1)
        .where(numbered.c.sequence > numbered.c.before + 1)
        .order_by(numbered.c.sequence)
        .limit(most)
    )
    return [(first, last) for first, last in session.execute(gaps)]


def months(session: Session, organisation_id: OrganisationId) -> list[Month]:
    """List an organisation's months with what is kept and what the events say."""
    by_period = (
        select(Event.period, func.count())
        .where(Event.organisation_id == organisation_id, Event.kind == MESSAGE_STORED)
        .group_by(Event.period)
    )
    counted = {row[0]: row[1] for row in session.execute(by_period)}
    kept = {
        row.period: row
        for row in session.scalars(select(Usage).where(Usage.organisation_id == organisation_id))
    }
    return [
        Month(
            period,
            kept[period].emails if period in kept else 0,
            kept[period].emails_forgotten if period in kept else 0,
            counted.get(period, 0),
        )
        for period in sorted({*counted, *kept})
    ]


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


def search_is_sound(session: Session) -> bool:
    """Tell whether the words of the search index are those of its entries.

    Needs a transaction that may write: on SQLite the question is spelt as an insertion.
    """
    return search.is_sound(session)


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
