"""Messages: what lists show, and the keys by which a message is found and never doubled.

Lists go by one column, so that a page costs the same wherever it lies: by `id` (order of
acceptance) or, with words or a bound on the sequence, by `sequence` (order of storing).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Index, Select, String, Text, bindparam, func, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from mailtape.domain.address import mailbox_of, normalise
from mailtape.domain.ids import IngestId, MessageId, OrganisationId
from mailtape.domain.message import Listed, Mailbox, Reception
from mailtape.domain.query import MessageQuery, terms
from mailtape.rows import search
from mailtape.rows.base import Id, Json, Key, MailAddress, NumberKey, Row, from_us
from mailtape.rows.organisations import Organisation

HELO_CHARS = 255
"""A host name's length (RFC 5321, section 4.5.3.1.2); what is more is not kept."""


class Message(Row):
    """One accepted recipient of one mail.

    No foreign key here nor in `events` and `usage`: they would be looked up for every mail, and
    MySQL has none on tables that are partitioned by month.
    """

    __tablename__ = "messages"
    __table_args__ = (
        Index("ix_messages_id", "organisation_id", "id", unique=True),
        Index("ix_messages_sequence", "organisation_id", "sequence", unique=True),
        Index("ix_messages_mailbox", "organisation_id", "mailbox", "id"),
        Index("ix_messages_dedupe", "organisation_id", "dedupe_key", unique=True),
    )

    number: Mapped[NumberKey]
    """Order of storing, and the key of the search entry; never shown outside."""
    id: Mapped[bytes] = mapped_column(Id)
    organisation_id: Mapped[bytes] = mapped_column(Id)
    sequence: Mapped[int]
    """The number of its event."""
    ingest_id: Mapped[bytes] = mapped_column(Id)
    """The transaction; with the organisation it names the body."""
    dedupe_key: Mapped[bytes] = mapped_column(Key)
    """What makes a second delivery of the same mail recognisable; the id itself for direct mail."""
    recipient: Mapped[MailAddress]
    mailbox: Mapped[MailAddress]
    mail_from: Mapped[MailAddress]
    protocol: Mapped[str] = mapped_column(String(8))
    client_address: Mapped[str] = mapped_column(String(64))
    helo: Mapped[str] = mapped_column(String(HELO_CHARS))
    tls: Mapped[str] = mapped_column(String(64))
    queue_id: Mapped[str] = mapped_column(String(255), default="")
    """The relay's name for the mail; empty for direct mail."""
    from_name: Mapped[str] = mapped_column(Text)
    from_address: Mapped[str] = mapped_column(Text)
    to: Mapped[list[list[str]]] = mapped_column("to_mailboxes", Json)
    """Name and address of each mailbox in the To header."""
    subject: Mapped[str] = mapped_column(Text)
    snippet: Mapped[str] = mapped_column(Text)
    attachments: Mapped[int]
    size: Mapped[int]
    """Raw bytes."""
    received_at: Mapped[datetime]
    unparsed: Mapped[bool] = mapped_column(default=False)
    read: Mapped[bool] = mapped_column("is_read", default=False)
    tags: Mapped[list[str]] = mapped_column(Json, default=list[Any])


class MessageKey(Row):
    """The dedupe key of a deleted message, kept for seven days against a late replay."""

    __tablename__ = "message_keys"

    organisation_id: Mapped[bytes] = mapped_column(Id, primary_key=True)
    dedupe_key: Mapped[bytes] = mapped_column(Key, primary_key=True)
    deleted_at: Mapped[datetime] = mapped_column(index=True)


_ASKED_AT_ONCE = 500
"""Ids in one statement: each is a parameter, of which databases take some thousands."""

Position = MessageId | int
"""Where a list stopped: the id of its last message or, in order of storing, its sequence."""

LISTED = (
    Message.id,
    Message.ingest_id,
    Message.sequence,
    Message.recipient,
    Message.from_name,
    Message.from_address,
    Message.to,
    Message.subject,
    Message.snippet,
    Message.received_at,
    Message.size,
    Message.attachments,
    Message.unparsed,
    Message.read,
    Message.tags,
)
"""The columns that `listed` reads, in its order."""

# What is asked most is made once: to make such a statement takes longer than to run it.
_NEWEST = (
    select(*LISTED)
    .where(Message.organisation_id == bindparam("organisation_id"))
    .order_by(Message.id.desc())
    .limit(bindparam("most"))
)
_NEWEST_BEFORE = _NEWEST.where(Message.id < bindparam("before"))
_ONE = select(
    *LISTED,
    Message.protocol,
    Message.mail_from,
    Message.client_address,
    Message.helo,
    Message.tls,
).where(Message.organisation_id == bindparam("organisation_id"), Message.id == bindparam("id"))
_RECIPIENTS = (
    select(Message.recipient)
    .where(
        Message.organisation_id == bindparam("organisation_id"),
        Message.id.between(bindparam("low"), bindparam("high")),
        Message.ingest_id == bindparam("ingest_id"),
    )
    .order_by(Message.sequence)
)


@dataclass(frozen=True, slots=True)
class Deleted:
    """What a deletion did."""

    messages: int
    last: Position | None
    """Where to go on; None when nothing was deleted."""
    bodiless: tuple[IngestId, ...]
    """Transactions of which the organisation has no message left: their bodies may go."""


def position(query: MessageQuery, message: Listed) -> Position:
    """Say where a page ends that ends with this message."""
    return message.sequence if query.by_sequence else message.id


def find(
    session: Session,
    organisation_id: OrganisationId,
    query: MessageQuery,
    *,
    limit: int,
    after: Position | None = None,
) -> list[Listed]:
    """List what matches, newest first, going on after a position of the same question."""
    if _finds_nothing(query):
        return []
    chosen: sa.Executable = _NEWEST
    bounds: dict[str, Any] = {}
    if query.is_empty and not isinstance(after, int):
        bounds = {"organisation_id": organisation_id, "most": limit}
        if after is not None:
            chosen, bounds["before"] = _NEWEST_BEFORE, after
    else:
        statement, order = _matching(session, organisation_id, query, LISTED, after)
        chosen = statement.order_by(order.desc()).limit(limit)
    return [listed(row) for row in session.connection().execute(chosen, bounds).all()]


def count(session: Session, organisation_id: OrganisationId, query: MessageQuery) -> int:
    """Count what matches."""
    if _finds_nothing(query):
        return 0
    statement, _ = _matching(session, organisation_id, query, (func.count(),))
    return session.scalar(statement) or 0


def first_match_after(
    session: Session, organisation_id: OrganisationId, query: MessageQuery, seen: int | None
) -> tuple[Listed | None, int]:
    """Find the oldest match; None for a start, then what an earlier look gave as seen.

    Returns the match and the last sequence that this look has seen, so that the next one reads
    only what was stored since: both from one snapshot.
    """
    last = session.scalar(select(Organisation.sequence).where(Organisation.id == organisation_id))
    if _finds_nothing(query):
        return None, last or 0
    if seen is not None:
        query = replace(query, since_sequence=max(seen, query.since_sequence or 0))
    statement, order = _matching(session, organisation_id, query, LISTED)
    found = session.execute(statement.order_by(order).limit(1)).first()
    return (listed(found) if found else None), last or 0


def get(
    session: Session, organisation_id: OrganisationId, message_id: MessageId
) -> tuple[Listed, Reception] | None:
    """Read one message and how it came in."""
    connection = session.connection()
    found = connection.execute(
        _ONE, {"organisation_id": organisation_id, "id": message_id}
    ).one_or_none()
    if found is None:
        return None
    low, high = _same_millisecond(message_id)
    recipients = connection.scalars(
        _RECIPIENTS,
        {
            "organisation_id": organisation_id,
            "low": low,
            "high": high,
            "ingest_id": found.ingest_id,
        },
    )
    return listed(found[: len(LISTED)]), Reception(
        protocol=found.protocol,
        mail_from=found.mail_from,
        rcpt_to=tuple(recipients),
        client_address=found.client_address,
        helo=found.helo,
        tls=found.tls,
    )


def transaction_of(
    session: Session, organisation_id: OrganisationId, message_id: MessageId
) -> IngestId | None:
    """Name the transaction of a message: with the organisation it is the key of its body."""
    found = session.scalar(
        select(Message.ingest_id).where(
            Message.organisation_id == organisation_id, Message.id == message_id
        )
    )
    return None if found is None else IngestId(found)


def update(
    session: Session,
    organisation_id: OrganisationId,
    message_id: MessageId,
    *,
    read: bool | None = None,
    tags: Sequence[str] | None = None,
) -> Listed | None:
    """Change what is given; returns the message as it is then, None when there is none."""
    this = (Message.organisation_id == organisation_id, Message.id == message_id)
    changes: dict[str, Any] = {}
    if read is not None:
        changes["read"] = read
    if tags is not None:
        changes["tags"] = list(tags)
    if changes:
        session.execute(sa.update(Message).where(*this).values(**changes))
    found = session.execute(select(*LISTED).where(*this)).first()
    return listed(found) if found else None


def delete(
    session: Session, organisation_id: OrganisationId, message_id: MessageId, *, now: datetime
) -> Deleted:
    """Delete one message, as `delete_matching` does."""
    statement = select(*_DOOMED).where(
        Message.organisation_id == organisation_id, Message.id == message_id
    )
    return _delete(session, organisation_id, session.execute(statement).all(), now)


def delete_matching(
    session: Session,
    organisation_id: OrganisationId,
    query: MessageQuery,
    *,
    limit: int,
    after: Position | None,
    now: datetime,
) -> Deleted:
    """Delete at most `limit` of what matches, newest first, going on after a position.

    With each row goes its search entry, and its bytes leave the organisation's storage; its key
    stays behind, so that a late replay does not bring it back. Its event and its count in the
    month's usage stay: it did arrive. Bodies are not touched: delete them after the commit.
    """
    if _finds_nothing(query):
        return Deleted(0, None, ())
    statement, order = _matching(session, organisation_id, query, _DOOMED, after)
    doomed = session.execute(statement.order_by(order.desc()).limit(limit)).all()
    deleted = _delete(session, organisation_id, doomed, now)
    if doomed and query.by_sequence:
        return replace(deleted, last=doomed[-1].sequence)
    return deleted


def delete_oldest(
    session: Session, organisation_id: OrganisationId, limit: int, *, now: datetime
) -> Deleted:
    """Delete the oldest messages, as `delete_matching` does."""
    statement = select(*_DOOMED).where(Message.organisation_id == organisation_id)
    oldest = session.execute(statement.order_by(Message.id).limit(limit)).all()
    return _delete(session, organisation_id, oldest, now)


def listed(columns: Sequence[Any]) -> Listed:
    """Make the value that leaves `rows` from the columns of `LISTED`."""
    (
        message_id,
        ingest_id,
        sequence,
        recipient,
        from_name,
        from_address,
        to,
        subject,
        snippet,
        received_at,
        size,
        attachments,
        unparsed,
        read,
        tags,
    ) = columns
    return Listed(
        id=message_id,
        transaction=ingest_id,
        sequence=sequence,
        address=recipient,
        sender=Mailbox(from_name, from_address),
        to=tuple(Mailbox(name, address) for name, address in to),
        subject=subject,
        snippet=snippet,
        received_at=received_at,
        size=size,
        attachments=attachments,
        unparsed=unparsed,
        read=read,
        tags=tuple(tags),
    )


def _finds_nothing(query: MessageQuery) -> bool:
    return query.words is not None and not terms(query.words)


def _matching(
    session: Session,
    organisation_id: OrganisationId,
    query: MessageQuery,
    columns: Sequence[Any],
    after: Position | None = None,
) -> tuple[Select[Any], ColumnElement[Any]]:
    """Make the statement of a question, and the column that its answer is ordered by."""
    if isinstance(after, int):
        before = after if query.before_sequence is None else min(after, query.before_sequence)
        query = replace(query, before_sequence=before)
    statement = select(*columns).where(*_filters(query))
    if isinstance(after, bytes):
        statement = statement.where(Message.id < after)
    if query.words is None:
        order = Message.sequence if query.by_sequence else Message.id
        statement = statement.where(Message.organisation_id == organisation_id)
        return statement.select_from(Message), order.expression
    hits = search.hits(session, organisation_id, terms(query.words))
    statement = statement.select_from(hits.entries).where(
        *hits.conditions,
        Message.number == hits.looked_up,
        hits.beside_index(Message.organisation_id) == organisation_id,
        *_entry_bounds(organisation_id, query, hits.number),
    )
    return statement, hits.number  # numbers and sequences rise together


def _filters(query: MessageQuery) -> Iterator[ColumnElement[bool]]:
    if query.address is not None:
        mailbox = mailbox_of(query.address)
        yield Message.mailbox == mailbox
        if (recipient := normalise(query.address)) != mailbox:
            yield Message.recipient == recipient
    if query.since_sequence is not None:
        yield Message.sequence > query.since_sequence
    if query.before_sequence is not None:
        yield Message.sequence < query.before_sequence
    # The id begins with the time, so that a bound in time is a bound on the index as well.
    if query.since_us is not None:
        yield Message.received_at > from_us(query.since_us)
        yield Message.id >= _earliest_id(query.since_us // 1000)
    if query.before_us is not None:
        yield Message.received_at < from_us(query.before_us)
        yield Message.id < _earliest_id(query.before_us // 1000 + 1)
    if query.unread is not None:
        yield Message.read.is_(not query.unread)


def _entry_bounds(
    organisation_id: OrganisationId, query: MessageQuery, number: ColumnElement[int]
) -> Iterator[ColumnElement[bool]]:
    """Bound the walk through the search index where the sequence is bounded."""
    if query.before_sequence is not None:
        last = _last_number(organisation_id, Message.sequence < query.before_sequence)
        yield number <= last
    if query.since_sequence is not None:
        last = _last_number(organisation_id, Message.sequence <= query.since_sequence)
        yield number > func.coalesce(last, 0)


def _last_number(
    organisation_id: OrganisationId, bound: ColumnElement[bool]
) -> sa.ScalarSelect[int]:
    return (
        select(Message.number)
        .where(Message.organisation_id == organisation_id, bound)
        .order_by(Message.sequence.desc())
        .limit(1)
        .scalar_subquery()
    )


_DOOMED = (
    Message.number,
    Message.id,
    Message.sequence,
    Message.ingest_id,
    Message.dedupe_key,
    Message.size,
)


def _delete(
    session: Session,
    organisation_id: OrganisationId,
    doomed: Sequence[Any],
    now: datetime,
) -> Deleted:
    if not doomed:
        return Deleted(0, None, ())
    # The organisation first, as the store does: two transactions then cannot wait in a circle.
    freed = sum(row.size for row in doomed)
    session.execute(
        sa.update(Organisation)
        .where(Organisation.id == organisation_id)
        .values(storage_bytes=Organisation.storage_bytes - freed)
    )
    numbers = [row.number for row in doomed]
    search.remove(session, numbers)
    session.execute(sa.delete(Message).where(Message.number.in_(numbers)))
    session.execute(
        sa.insert(MessageKey),
        [
            {
                "organisation_id": organisation_id,
                "dedupe_key": row.dedupe_key,
                "deleted_at": now,
            }
            for row in doomed
        ],
    )
    last = doomed[-1].id
    return Deleted(len(doomed), last, _without_rows(session, organisation_id, doomed))


def _without_rows(
    session: Session, organisation_id: OrganisationId, gone: Sequence[Any]
) -> tuple[IngestId, ...]:
    """Tell of which transactions no message is left.

    The messages of one transaction were accepted in one instant, so their ids lie side by side
    and the index on the id finds them: `ingest_id` needs none of its own.
    """
    transactions = {row.ingest_id: row.id for row in gone}
    if session.connection().dialect.name != "sqlite":  # MySQL and MariaDB spell VALUES differently
        return tuple(
            IngestId(ingest_id)
            for ingest_id, message_id in transactions.items()
            if not session.scalar(select(_other_of(organisation_id, ingest_id, message_id)))
        )
    asked = sa.values(
        sa.column("ingest_id", Id), sa.column("low", Id), sa.column("high", Id), name="asked"
    ).data([(i, *_same_millisecond(message_id)) for i, message_id in transactions.items()])
    asked_of = asked.cte()
    left = sa.exists().where(
        Message.organisation_id == organisation_id,
        Message.id.between(asked_of.c.low, asked_of.c.high),
        Message.ingest_id == asked_of.c.ingest_id,
    )
    return tuple(session.scalars(select(asked_of.c.ingest_id).where(~left)))


def _other_of(organisation_id: OrganisationId, ingest_id: bytes, message_id: bytes) -> sa.Exists:
    low, high = _same_millisecond(message_id)
    return sa.exists().where(
        Message.organisation_id == organisation_id,
        Message.id.between(low, high),
        Message.ingest_id == ingest_id,
    )


def _same_millisecond(message_id: bytes) -> tuple[bytes, bytes]:
    """Bound the ids of what was accepted in the same millisecond (RFC 9562, section 5.7)."""
    return message_id[:6] + bytes(10), message_id[:6] + b"\xff" * 10


def stored(
    session: Session, organisation_id: OrganisationId, ids: Sequence[MessageId]
) -> set[MessageId]:
    """Tell which of these have a row."""
    found: set[MessageId] = set()
    for start in range(0, len(ids), _ASKED_AT_ONCE):
        some = Message.id.in_(ids[start : start + _ASKED_AT_ONCE])
        rows = session.scalars(
            select(Message.id).where(Message.organisation_id == organisation_id, some)
        )
        found.update(MessageId(identity) for identity in rows)
    return found


def relayed(
    session: Session, organisation_id: OrganisationId, within: timedelta, most: int
) -> list[tuple[str, str]]:
    """Name what relays handed over last: queue id and recipient.

    `within` goes back from the newest message, not from now: whoever was down for a day is asked
    about what was on its way a day ago. No more than the `most` newest messages are looked at.
    """
    of_organisation = Message.organisation_id == organisation_id
    newest = session.scalar(select(func.max(Message.id)).where(of_organisation))
    if newest is None:
        return []
    since = int.from_bytes(newest[:6]) - within // timedelta(milliseconds=1)
    latest = (
        select(Message.queue_id, Message.recipient)
        .where(of_organisation, Message.id >= _earliest_id(since))
        .order_by(Message.id.desc())
        .limit(most)
        .subquery()
    )
    named = select(latest.c.queue_id, latest.c.recipient).where(latest.c.queue_id != "")
    return [(queue_id, recipient) for queue_id, recipient in session.execute(named)]


def _earliest_id(unix_ms: int) -> bytes:
    return min(max(unix_ms, 0), 2**48 - 1).to_bytes(6, "big") + bytes(10)
